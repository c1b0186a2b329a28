"""A captioning loop: one word at a time through an LSTM whose state the net carries, greedily, and in a batch of beams."""
import numpy as np

import caffe
from caffe import layers as L

words, hidden = 7, 12
n = caffe.NetSpec()
n.cont_sentence = L.Input(shape=dict(dim=[1, 1]))
n.input_sentence = L.Input(shape=dict(dim=[1, 1]))
n.image_features = L.Input(shape=dict(dim=[1, 5]))
n.embedded = L.Embed(n.input_sentence, input_dim=words + 1, num_output=6, bias_term=False, weight_filler=dict(type="uniform", min=-1, max=1))
n.lstm1 = L.LSTM(n.embedded, n.cont_sentence, n.image_features, recurrent_param=dict(num_output=hidden, weight_filler=dict(type="uniform", min=-1, max=1)))
n.predict = L.InnerProduct(n.lstm1, num_output=words, axis=2, weight_filler=dict(type="uniform", min=-1, max=1))
n.probs = L.Softmax(n.predict, axis=2)
open("word_to_preds.prototxt", "w").write(str(n.to_proto()))


class Captioner():
    def __init__(self, net_proto, vocab):
        caffe.set_random_seed(3)
        self.lstm_net = caffe.Net(net_proto, caffe.TEST)
        self.vocab = ["<EOS>"] + vocab

    def set_caption_batch_size(self, batch_size):
        self.lstm_net.blobs["cont_sentence"].reshape(1, batch_size)
        self.lstm_net.blobs["input_sentence"].reshape(1, batch_size)
        self.lstm_net.blobs["image_features"].reshape(batch_size, *self.lstm_net.blobs["image_features"].data.shape[1:])
        self.lstm_net.reshape()

    def predict_single_word(self, descriptor, previous_word, output="probs"):
        cont_input = 0 if previous_word == 0 else 1
        self.lstm_net.forward(image_features=descriptor, cont_sentence=np.array([[cont_input]]), input_sentence=np.array([[previous_word]]))
        return self.lstm_net.blobs[output].data[0, 0, :].copy()

    def sample_caption(self, descriptor, max_length=8):
        sentence = []
        while len(sentence) < max_length and (not sentence or sentence[-1] != 0):
            previous = sentence[-1] if sentence else 0
            sentence.append(int(np.argmax(self.predict_single_word(descriptor, previous))))
        return sentence


captioner = Captioner("word_to_preds.prototxt", ["a", "cat", "on", "the", "mat", "."])
descriptors = np.random.RandomState(5).randn(3, 5).astype(np.float32)
single = []
for d in descriptors:
    single.append(captioner.sample_caption(d[None]))
again = captioner.sample_caption(descriptors[:1])
assert again == single[0], "the state of one sentence leaks into the next"
captioner.set_caption_batch_size(3)
net, sentences, previous = captioner.lstm_net, [[] for _ in range(3)], np.zeros((1, 3))
for step in range(8):
    cont = np.full((1, 3), float(step > 0))
    out = net.forward(image_features=descriptors, cont_sentence=cont, input_sentence=previous)
    previous = net.blobs["probs"].data.argmax(axis=2).astype(np.float32)
    for s, word in zip(sentences, previous[0]):
        s.append(int(word))
for s, one in zip(sentences, single):
    assert s[:len(one)] == one, (s, one)
print("ok", " ".join(captioner.vocab[w] for w in single[0] if w < len(captioner.vocab)))
