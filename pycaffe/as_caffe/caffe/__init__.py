"""caffe, as brew has it: `import caffe` gives brew.pycaffe. `brew install-caffe --remove` takes this folder away."""
stands_for_brew = True

try:
    import brew
except ModuleNotFoundError as e:
    if e.name != "brew":
        raise
    raise ModuleNotFoundError(f"caffe was brew's, which is not installed any more: delete {__path__[0]}", name="caffe") from None
brew.install_as_caffe()
