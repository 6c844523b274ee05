"""OpenVINO: the encoder of peer_torch.py converted, and quantised by nncf: 8-bit weights and activations with static scales
(post-training quantisation, its preset for transformers)."""

import os
import time

import nncf
import openvino

import peer_torch

N_SAMPLES = 4


def graph(name, kind, folder):
    """Converted once; nncf takes minutes."""
    path = os.path.join(folder, f"{name}-openvino-{kind}.xml")
    if os.path.exists(path):
        return path
    model = openvino.convert_model(peer_torch.encoder(name), example_input=peer_torch.pixels(name))
    if kind == "w8a8":
        samples = nncf.Dataset([peer_torch.pixels(name, seed).numpy() for seed in range(N_SAMPLES)])
        model = nncf.quantize(model, samples, subset_size=N_SAMPLES, model_type=nncf.ModelType.TRANSFORMER)
    openvino.save_model(model, path, compress_to_fp16=False)
    return path


def vision(name, kind, threads, folder):
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.compile_model(graph(name, kind, folder), "CPU", settings).create_infer_request()
    x = peer_torch.pixels(name).numpy()

    def run():
        begin = time.perf_counter()
        request.infer([x])
        return (time.perf_counter() - begin) * 1e3
    return run
