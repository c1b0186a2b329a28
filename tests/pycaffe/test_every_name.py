"""every_name.py, a script for Caffe that uses all of pycaffe's names, runs after install_as_caffe()."""
from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

SCRIPT = Path(__file__).with_name("every_name.py")
NAMES = """AdaDeltaSolver AdaGradSolver AdamSolver Classifier Detector Layer NCCL NesterovSolver Net NetSpec RMSPropSolver SGDSolver TEST TRAIN Timer
__version__ draw draw_net draw_net_to_file get_pydot_graph get_solver has_nccl init_log io layer_type_list layers log params proto caffe_pb2 set_device set_mode_cpu set_mode_gpu
set_multiprocess set_random_seed set_solver_count set_solver_rank solver_count solver_rank to_proto
blobs blob_loss_weights layer_dict inputs outputs top_names bottom_names _layer_names _blob_names _blobs forward backward forward_all forward_backward_all reshape
clear_param_diffs copy_from share_with save save_hdf5 load_hdf5 set_input_arrays before_forward after_forward before_backward after_backward
data diff shape num channels height width count _gpu_data_ptr _gpu_diff_ptr add_blob setup type
net test_nets iter lr param max_iter layer_wise_reduce step solve restore snapshot share_weights apply_update add_callback start stop ms new_uid bcast
ntop in_place blobproto_to_array array_to_blobproto arraylist_to_blobprotovector_str blobprotovector_str_to_arraylist array_to_datum datum_to_array Transformer
set_transpose set_channel_swap set_raw_scale set_mean set_input_scale preprocess deprocess load_image resize_image oversample
predict detect_windows detect_selective_search crop configure_crop coord_map coord_map_from_to UndefinedMapException AxisMismatchException""".split()


def test_every_name(tmp_path: Path) -> None:
    text = SCRIPT.read_text()
    assert len(text.splitlines()) <= 30
    assert not [name for name in NAMES if not re.search(rf"\b{name}\b", text)]
    cv2.imwrite(str(tmp_path / "image.png"), np.random.default_rng(0).integers(0, 255, (20, 24, 3), dtype=np.uint8))
    result = subprocess.run([sys.executable, SCRIPT], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "all names used" in result.stdout and "SGDSolver 4 0.1" in result.stdout and (tmp_path / "net.svg").read_bytes().startswith(b"<?xml")
