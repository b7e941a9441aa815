#!/usr/bin/env python3
"""Makes fixtures/types.safetensors: a convnet1-3 for 1x4x4 images and two classes, as the package safetensors writes it,
with parameters of every float type and a counter that is no float. Values follow from a formula and are exact in all.

usage: gen_safetensors.py FILE   (with safetensors and PyTorch)
"""
import math
import sys

import torch
from safetensors.torch import save_file

PARAMETERS = [  # in the net's order, which the formula goes by
    ("features.0.weight", (3, 1, 3, 3), torch.float16),
    ("features.0.bias", (3,), torch.bfloat16),
    ("features.1.weight", (3,), torch.float64),
    ("features.1.bias", (3,), torch.float32),
    ("features.1.running_mean", (3,), torch.float32),
    ("features.1.running_var", (3,), torch.bfloat16),
    ("classifier.weight", (2, 12), torch.float64),
    ("classifier.bias", (2,), torch.float16),
]


def main():
    state = {"features.1.num_batches_tracked": torch.tensor(77)}
    for j, (name, shape, dtype) in enumerate(PARAMETERS):
        values = [((7 * i + 3 * j) % 33 - 16) / 16 for i in range(math.prod(shape))]
        state[name] = torch.tensor(values, dtype=dtype).reshape(shape)
    save_file(state, sys.argv[1], metadata={"format": "pt", "note": "made for a test"})


main()
