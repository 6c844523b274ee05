"""Trains the demonstration model in models/demo from nothing, on pictures that demo_pictures.py draws, on one CPU core.

    python export/train_demo.py --work /tmp/demo            train, then write models/demo
    python export/train_demo.py --work /tmp/demo --resume   go on from the last checkpoint
    python export/train_demo.py --eval                      accuracy of models/demo, with transformers' own generate

The model is transformers' own SmolVLMForConditionalGeneration, only small. Two things make an hour or two on one core enough:
the vision encoder is first taught directly what is at each place ("looking"), before any language; and the weights start at
1/sqrt(fan-in), as the class's default of 0.02 is meant for wide models and hardly learns at this width.
"""
import argparse
import contextlib
import json
import math
import os
import random
import time

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

import demo_pictures as pictures
from demo_pictures import CLASSES, GRIDS, LONGEST_EDGE, QUESTIONS, SHADES, TASKS, TILE

# --------------------------------------------------------------------------------------------------------------- knobs
VISION = dict(hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=384, image_size=TILE, patch_size=8)
TEXT = dict(model_type="llama", hidden_size=128, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
            intermediate_size=384, vocab_size=512, max_position_embeddings=1024, rope_theta=10000.0, rms_norm_eps=1e-5,
            tie_word_embeddings=True, bos_token_id=1, pad_token_id=2)
SCALE_FACTOR, IMAGE_TOKENS = 2, 16           # pixel shuffle; (64 / 8 / 2) squared tokens a tile
LOOK_STEPS, STEPS = 900, 5800                # steps of looking alone; steps in all
HARDEN_STEPS = 1200                          # from one or two characters to the full length, after looking
TILES_A_BATCH = 120                          # 40 pictures of 3 tiles or 24 of 5
RATE, WARM_UP, LAST_RATE = 3e-3, 150, 0.02   # learning rate, its warm-up in steps, its end as a fraction
WEIGHT_DECAY, CLIP, AVERAGE = 0.05, 1.0, 0.998
LOOK_WEIGHT = 1.0, 0.2                       # of the looking loss once the language model learns too: first, last
GRID_SHARES = (0.6, 0.3, 0.1)                # of the GRIDS 1x2, 2x2, 2x1
EVAL_EVERY, EVAL_PICTURES = 300, 64          # steps; pictures a task
SAMPLES = [("number", GRIDS[0], "png"), ("number", GRIDS[1], "jpg"), ("word", GRIDS[0], "png"), ("word", GRIDS[0], "ppm"),
           ("word", GRIDS[1], "png"), ("display", GRIDS[0], "png"), ("display", GRIDS[0], "jpg"), ("handwriting", GRIDS[1], "png"),
           ("handwriting", GRIDS[0], "png"), ("how many", GRIDS[1], "png"), ("colour", GRIDS[0], "png"), ("shape", GRIDS[2], "png"),
           ("yes/no", GRIDS[1], "png")]
FOLDER = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "models", "demo")

# ----------------------------------------------------------------------------------------------------------- tokenizer
FIRST_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LAST_TOKENS = (["<global-img>"] + [f"<row_{r}_col_{c}>" for r in range(1, 5) for c in range(1, 5)]
               + ["<fake_token_around_image>", "<image>", "<end_of_utterance>"])
CHAT_TEMPLATE = ("<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}{% if message['content'][0]['type'] == "
                 "'image' %}{{':'}}{% else %}{{': '}}{% endif %}{% for line in message['content'] %}{% if line['type'] == 'text' %}"
                 "{{line['text']}}{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
                 "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}")


def make_tokenizer():
    """SmolVLM's pipeline with 512 tokens. No capital letter follows a space in the corpus and none follows another,
    so printed words always become single letters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                       pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.decoder = decoders.ByteLevel()
    things = [*pictures.KINDS, *map(pictures.plural, pictures.KINDS), *pictures.COLOURS, "yes", "no", "shape", "shapes"]
    corpus = [q.format(thing) for task in TASKS for q in QUESTIONS[task] for thing in things for _ in range(3)]
    corpus += [f"Assistant: {thing}" for thing in things] * 40 + ["User:", "Assistant:", "\n\n"] * 200
    trainer = trainers.BpeTrainer(vocab_size=TEXT["vocab_size"] - len(LAST_TOKENS), special_tokens=FIRST_TOKENS, min_frequency=1,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    spare = TEXT["vocab_size"] - tokenizer.get_vocab_size() - len(LAST_TOKENS)
    for token in LAST_TOKENS + [f"<|reserved_special_token_{i}|>" for i in range(spare)]:
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
    assert len(tokenizer.encode(" HELLO").ids) == 6
    return tokenizer


def image_text(rows, columns):
    tile = "<image>" * IMAGE_TOKENS
    lines = ["".join(f"<fake_token_around_image><row_{r + 1}_col_{c + 1}>{tile}" for c in range(columns)) + "\n" for r in range(rows)]
    return "".join(lines) + f"\n<fake_token_around_image><global-img>{tile}<fake_token_around_image>"


class Encoder:
    """Turns questions and answers into token ids, remembering those of every piece."""

    def __init__(self, tokenizer):
        self.tokenizer, self.known = tokenizer, {}

    def __call__(self, text):
        if text not in self.known:
            self.known[text] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return self.known[text]

    def conversation(self, questions):
        """Ids after the picture's own, and for every answer the place and length of its tokens."""
        ids, answers = [], []
        for turn, (_, question, answer) in enumerate(questions):
            ids += self(("\nUser: " if turn else "") + question + "<end_of_utterance>\nAssistant:")
            reply = self(" " + answer + "<end_of_utterance>")
            answers.append((len(ids), len(reply)))
            ids += reply
        return ids, answers


# --------------------------------------------------------------------------------------------------------------- model
def make_model(tokenizer, seed):
    config = SmolVLMConfig(vision_config=VISION, text_config=dict(TEXT, eos_token_id=tokenizer.token_to_id("<end_of_utterance>")),
                           scale_factor=SCALE_FACTOR, image_token_id=tokenizer.token_to_id("<image>"), pad_token_id=2,
                           tie_word_embeddings=True)
    torch.manual_seed(seed)
    model = SmolVLMForConditionalGeneration(config)
    for name, weight in model.named_parameters():
        if weight.dim() < 2:
            continue                                                  # biases and norms are right as they are
        fan_in = weight[0].numel() if "embed_tokens" not in name and "position" not in name else TEXT["hidden_size"]
        to_residual = any(part in name for part in ("out_proj", "fc2", "o_proj", "down_proj"))
        torch.nn.init.normal_(weight, std=(0.5 if to_residual else 1.0) / math.sqrt(fan_in))
    # Where a patch is must be as loud as what is in it, and smooth, or attention is slow to find a patch's neighbours.
    places = model.model.vision_model.embeddings.position_embedding.weight
    side, width = TILE // VISION["patch_size"], VISION["hidden_size"]
    angles = torch.arange(side)[:, None] * torch.exp(-torch.arange(width // 4) * math.log(16.0) / (width // 4))
    waves = torch.cat([angles.sin(), angles.cos()], 1)
    with torch.no_grad():
        places.copy_(torch.cat([waves.repeat_interleave(side, 0), waves.repeat(side, 1)], 1))
    return model


@contextlib.contextmanager
def fast_arithmetic(on):
    """bfloat16 products, except attention, whose bfloat16 backward pass is slow on CPUs."""
    original = F.scaled_dot_product_attention

    def attention(q, k, v, **options):
        with torch.autocast("cpu", enabled=False):
            return original(q.float(), k.float(), v.float(), **options)
    if on:
        F.scaled_dot_product_attention = torch.nn.functional.scaled_dot_product_attention = attention
    try:
        with torch.autocast("cpu", torch.bfloat16, enabled=on):
            yield
    finally:
        F.scaled_dot_product_attention = torch.nn.functional.scaled_dot_product_attention = original


def look(model, tiles):
    """Picture features, (tiles, 16, width): what the class itself computes, without its bookkeeping of odd sizes."""
    vision = model.model.vision_model
    pixels = (tiles.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    x = vision.embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2) + vision.embeddings.position_embedding.weight
    for layer in vision.encoder.layers:
        x = layer(x, None)
        x = x[0] if isinstance(x, tuple) else x
    return model.model.connector(vision.post_layernorm(x))


def look_loss(head, features, cells, centres):
    """How well one linear layer can tell, from each feature, the class and colour of its 4 patches and what has its centre there."""
    out = head(features).float()
    n = len(CLASSES) + len(SHADES)
    patches, middle = out[..., :4 * n].unflatten(-1, (4, n)), out[..., 4 * n:]
    classes, shades = patches.split((len(CLASSES), len(SHADES)), -1)
    loss = F.cross_entropy(classes.flatten(0, 2), cells[..., 0].long().flatten())
    loss = loss + F.cross_entropy(shades.flatten(0, 2), cells[..., 1].long().flatten())
    return loss + F.binary_cross_entropy_with_logits(middle, centres.float()) * n / 3


def answer_logits(model, features, batch):
    """Logits at the places that predict answer tokens; the picture's features replace its placeholders."""
    text = model.model.text_model
    embedded = text.embed_tokens(batch["ids"])
    spots = batch["ids"][0] == model.config.image_token_id            # the same in every row of a batch
    embedded = embedded.index_copy(1, spots.nonzero()[:, 0], features.reshape(len(embedded), -1, embedded.shape[-1]).to(embedded.dtype))
    hidden = text(inputs_embeds=embedded, use_cache=False).last_hidden_state
    return (hidden[batch["rows"], batch["columns"] - 1] @ text.embed_tokens.weight.T).float()


# ---------------------------------------------------------------------------------------------------------------- data
def make_batch(encode, drawn, grid):
    """Drawings put together: tiles, targets of looking, ids, and where the answers are."""
    prefix = encode("<|im_start|>User:" + image_text(*grid))
    tiles, cells, centres, ids, rows, columns, owner, tasks = [], [], [], [], [], [], [], []
    for row, (picture, things, questions) in enumerate(drawn):
        parts, found = pictures.cut_tiles(picture)
        assert found == grid
        tiles.append(parts)
        for target, part in zip((cells, centres), pictures.place_targets(things, picture.size, grid)):
            target.append(part)
        text, answers = encode.conversation(questions)
        ids.append(prefix + text)
        for (start, length), (task, _, _) in zip(answers, questions):
            rows += [row] * length
            columns += range(len(prefix) + start, len(prefix) + start + length)
            owner += [len(tasks)] * length
            tasks.append(TASKS.index(task))
    longest = max(map(len, ids))
    ids = [line + [2] * (longest - len(line)) for line in ids]        # causal attention never sees what is to the right
    result = {"tiles": np.concatenate(tiles), "cells": np.concatenate(cells), "centres": np.concatenate(centres), "ids": ids,
              "rows": rows, "columns": columns, "owner": owner, "tasks": tasks}
    return {name: torch.as_tensor(np.asarray(value)) for name, value in result.items()}


class Batches(torch.utils.data.Dataset):
    """Batch number n is drawn from seed and n alone (and from the shares of the tasks when it is drawn)."""

    def __init__(self, tokenizer_text, shares, options, start, steps):
        self.text, self.shares, self.options, self.start, self.steps, self.encode = tokenizer_text, shares, options, start, steps, None

    def __len__(self):
        return self.steps - self.start

    def __getitem__(self, index):
        if self.encode is None:
            self.encode = Encoder(Tokenizer.from_str(self.text))
            torch.set_num_threads(1)
        step = self.start + index
        rng = random.Random(self.options.seed * 1_000_003 + step)
        hardness = 1.0 if step < LOOK_STEPS else min(1.0, (step - LOOK_STEPS) / HARDEN_STEPS)
        grid = rng.choices(GRIDS, GRID_SHARES)[0]
        names = [task for task in TASKS if grid != (2, 1) or task not in TASKS[:3]]    # lines of text are not tall
        shares = [float(self.shares[TASKS.index(task)]) for task in names]
        count = TILES_A_BATCH // (grid[0] * grid[1] + 1)
        return make_batch(self.encode, [pictures.draw(rng, rng.choices(names, shares)[0], grid, "train", hardness, self.options.mnist)
                                        for _ in range(count)], grid)


def eval_batches(encode, mnist, per_task, seed=77):
    """Pictures with unseen fonts, unseen handwriting and unseen seeds."""
    rng = random.Random(seed)
    drawn = {grid: [] for grid in GRIDS}
    for task in TASKS:
        for i in range(per_task):
            grid = GRIDS[i % 2 if task in TASKS[:3] else (0, 1, 0, 1, 2)[i % 5]]
            drawn[grid].append(pictures.draw(rng, task, grid, "test", 1.0, mnist))
    return [make_batch(encode, drawn[grid][i:i + 64], grid) for grid in GRIDS for i in range(0, len(drawn[grid]), 64)]


# ------------------------------------------------------------------------------------------------------------ training
def learning_rate(step, steps):
    fresh = step if step < LOOK_STEPS else step - LOOK_STEPS          # the language model starts after looking: warm up again
    cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
    return min(1, (fresh + 1) / WARM_UP) * (LAST_RATE + (1 - LAST_RATE) * cosine)


def make_optimizers(model, head, muon):
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "layers" in n] if muon else []
    chosen = set(map(id, matrices))
    others = [p for p in [*model.parameters(), *head.parameters()] if id(p) not in chosen]
    found = [torch.optim.AdamW(others, lr=RATE, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY)]
    if muon:
        found.append(torch.optim.Muon(matrices, lr=RATE, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"))
    return found


@torch.no_grad()
def accuracy(model, batches):
    """Share of whole answers right. Given the right beginning every next token must be the likeliest: the same as greedy generation."""
    right, asked = np.zeros(len(TASKS)), np.zeros(len(TASKS))
    for batch in batches:
        best = answer_logits(model, look(model, batch["tiles"]), batch).argmax(-1)
        wrong = best != batch["ids"][batch["rows"], batch["columns"]]
        missed = torch.zeros(len(batch["tasks"])).index_add(0, batch["owner"], wrong.float()).bool().numpy()
        np.add.at(right, batch["tasks"].numpy(), ~missed)
        np.add.at(asked, batch["tasks"].numpy(), 1)
    return right / np.maximum(asked, 1)


def step_aside(niceness):
    """The drawing process: any core, and not in the way of the training one."""
    os.sched_setaffinity(0, range(os.cpu_count()))
    os.nice(max(0, niceness - os.nice(0)))


def train(options):
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    tokenizer = make_tokenizer()
    model, encode = make_model(tokenizer, options.seed), Encoder(tokenizer)
    head = torch.nn.Linear(TEXT["hidden_size"], 5 * (len(CLASSES) + len(SHADES)))
    optimizers = make_optimizers(model, head, options.muon)
    average = {name: value.clone() for name, value in model.state_dict().items()}
    shares, start = torch.ones(len(TASKS)).share_memory_(), 0
    shares[:] = torch.tensor([2.0, 2.5, 1.5, 1.0, 0.4, 0.4, 0.4, 0.4])
    checkpoint = os.path.join(options.work, "checkpoint.pt")
    if options.resume:
        saved = torch.load(checkpoint)
        start, average = saved["step"], saved["average"]
        model.load_state_dict(saved["model"])
        head.load_state_dict(saved["head"])
        shares[:] = saved["shares"]
        for optimizer, state in zip(optimizers, saved["optimizers"]):
            optimizer.load_state_dict(state)
    print(sum(p.numel() for p in model.parameters()), "parameters")
    data = Batches(tokenizer.to_str(), shares, options, start, options.steps)
    loader = torch.utils.data.DataLoader(data, batch_size=None, num_workers=1, prefetch_factor=32,
                                         worker_init_fn=lambda _: step_aside(options.nice))
    test = eval_batches(encode, options.mnist, EVAL_PICTURES)
    twin = make_model(tokenizer, 0).eval()                            # holds the averaged weights for tests
    print("step   looking  answers " + " ".join(f"{task[:9]:>9}" for task in TASKS) + "  minutes", flush=True)
    began, sums, waited, last = time.time(), np.zeros(3), 0.0, time.time()
    for step, batch in enumerate(tqdm(loader, initial=start, total=options.steps, mininterval=30), start):
        waited += time.time() - last
        talking = step >= LOOK_STEPS
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = RATE * learning_rate(step, options.steps)
        with fast_arithmetic(options.bf16):
            features = look(model, batch["tiles"])
            seeing = look_loss(head, features, batch["cells"], batch["centres"])
            answering = torch.zeros(())
            if talking:
                wanted = batch["ids"][batch["rows"], batch["columns"]]
                answering = F.cross_entropy(answer_logits(model, features, batch), wanted)
        weight = np.interp(step, (LOOK_STEPS, options.steps), LOOK_WEIGHT)
        (answering + float(weight) * seeing).backward()
        torch.nn.utils.clip_grad_norm_([*model.parameters(), *head.parameters()], CLIP)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            decay = min(AVERAGE, (step + 1) / (step + 20))
            for name, value in model.state_dict().items():
                average[name].lerp_(value, 1 - decay)
        sums += (float(seeing.detach()), float(answering.detach()), 1)
        if (step + 1) % 100 == 0 and not talking or (step + 1) % EVAL_EVERY == 0 or step + 1 == options.steps:
            line = f"{step + 1:5d}  {sums[0] / sums[2]:8.4f} {sums[1] / sums[2]:8.4f}"
            if talking:
                twin.load_state_dict(average)
                result = accuracy(twin, test)
                line += " " + " ".join(f"{value:9.3f}" for value in result)
                if options.adapt:                                     # more of what still goes wrong
                    shares[:] = 0.7 * shares + 0.3 * torch.tensor(0.25 + 6 * np.minimum(1 - result, 0.4))
            tqdm.write(f"{line}  {(time.time() - began) / 60:5.1f}  waited {waited:.0f} s for data")
            sums[:] = 0
        if (step + 1) % EVAL_EVERY == 0 or step + 1 == options.steps:
            torch.save({"step": step + 1, "model": model.state_dict(), "average": average, "head": head.state_dict(),
                        "shares": shares.clone(), "optimizers": [o.state_dict() for o in optimizers]}, checkpoint + ".new")
            os.replace(checkpoint + ".new", checkpoint)
        last = time.time()
    write_folder(options.folder, tokenizer, average)


# ------------------------------------------------------------------------------------------------- the folder, and its test
def write_folder(folder, tokenizer, weights):
    """The layout of the published SmolVLM2 folders."""
    os.makedirs(folder, exist_ok=True)
    model = make_model(tokenizer, 0)
    model.load_state_dict(weights)
    model.generation_config.update(bos_token_id=1, eos_token_id=tokenizer.token_to_id("<end_of_utterance>"), pad_token_id=2)
    model.float().save_pretrained(folder)
    os.chmod(os.path.join(folder, "model.safetensors"), 0o644)
    tokenizer.save(os.path.join(folder, "tokenizer.json"))
    named = {"bos_token": "<|im_start|>", "eos_token": "<end_of_utterance>", "unk_token": "<|endoftext|>", "pad_token": "<|im_end|>"}
    extra = {"fake_image_token": "<fake_token_around_image>", "image_token": "<image>", "global_image_token": "<global-img>",
             "end_of_utterance_token": "<end_of_utterance>"}
    special = {str(tokenizer.token_to_id(token)): {"content": token, "lstrip": False, "normalized": False, "rstrip": False,
               "single_word": False, "special": True} for token in FIRST_TOKENS + LAST_TOKENS}
    listed = ["<fake_token_around_image>", "<image>", "<end_of_utterance>"]
    edge = {"longest_edge": TILE}
    files = {
        "tokenizer_config.json": {"add_prefix_space": False, "added_tokens_decoder": special, "additional_special_tokens": listed,
                                  "clean_up_tokenization_spaces": False, "model_max_length": TEXT["max_position_embeddings"],
                                  "extra_special_tokens": extra, "processor_class": "SmolVLMProcessor", "chat_template": CHAT_TEMPLATE,
                                  "tokenizer_class": "GPT2Tokenizer", "truncation_side": "left", **named, **extra},
        "special_tokens_map.json": {"additional_special_tokens": listed, **named, **extra},
        "added_tokens.json": {token: tokenizer.token_to_id(token) for token in LAST_TOKENS},
        "preprocessor_config.json": {
            "do_convert_rgb": True, "do_image_splitting": True, "do_normalize": True, "do_pad": True, "do_rescale": True,
            "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "image_processor_type": "SmolVLMImageProcessor",
            "max_image_size": edge, "processor_class": "SmolVLMProcessor", "resample": 1, "rescale_factor": 1 / 255,
            "size": {"longest_edge": LONGEST_EDGE}, "video_sampling": {"fps": 1, "max_frames": 8, "video_size": edge}},
        "processor_config.json": {"image_seq_len": IMAGE_TOKENS, "processor_class": "SmolVLMProcessor"},
        "chat_template.json": {"chat_template": CHAT_TEMPLATE},
    }
    for name, content in files.items():
        with open(os.path.join(folder, name), "w") as file:
            json.dump(content, file, indent=2, sort_keys=name != "added_tokens.json")
            file.write("\n")
    print("wrote", folder)


def load_with_transformers(folder):
    """AutoProcessor would do, but it wants torchvision for SmolVLM's videos; pictures need only Pillow."""
    from transformers import AutoTokenizer, SmolVLMProcessor
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
    from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

    class WithoutVideo(SmolVLMProcessor):
        def check_argument_for_proper_class(self, name, argument):
            if name != "video_processor":
                return super().check_argument_for_proper_class(name, argument)

    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = WithoutVideo(SmolVLMImageProcessorPil.from_pretrained(folder), tokenizer, SmolVLMVideoProcessor(),
                             image_seq_len=IMAGE_TOKENS, chat_template=tokenizer.chat_template)
    return processor, SmolVLMForConditionalGeneration.from_pretrained(folder).eval()


@torch.no_grad()
def reply(processor, model, picture, question):
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(text=prompt, images=[[picture]], return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1]:]
    return processor.tokenizer.decode(out, skip_special_tokens=True).strip()


def check_same(encode, processor, rng):
    """Our own cutting and prompts are the processor's, number for number."""
    for grid in GRIDS:
        picture, _, questions = pictures.draw(rng, "how many", grid, "test")
        batch = make_batch(encode, [(picture, [], questions[:1])], grid)
        inputs = processor(text=processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": questions[0][1]}]}],
            add_generation_prompt=True), images=[[picture]], return_tensors="pt")
        ours = (batch["tiles"].permute(0, 3, 1, 2).numpy() / 255 - 0.5) / 0.5
        assert np.abs(ours - inputs["pixel_values"][0].numpy()).max() < 1e-6
        ids = inputs["input_ids"][0].tolist()
        assert batch["ids"][0, :len(ids)].tolist() == ids


def evaluate(options):
    torch.set_num_threads(options.threads)
    processor, model = load_with_transformers(options.folder)
    rng = random.Random(2024)
    check_same(Encoder(Tokenizer.from_file(os.path.join(options.folder, "tokenizer.json"))), processor, rng)
    print("| task | right | asked |\n|---|---|---|")
    for task in TASKS:
        right = asked = 0
        while asked < options.pictures:
            grid = rng.choice(GRIDS[:2] if task in TASKS[:3] else GRIDS)
            picture, _, questions = pictures.draw(rng, task, grid, options.split, 1.0, options.mnist)
            if questions[0][0] == task:                               # a picture may have no question of the wanted kind
                asked += 1
                right += reply(processor, model, picture, questions[0][1]) == questions[0][2]
        print(f"| {task} | {100 * right / asked:.1f} % | {asked} |", flush=True)


def write_samples(options):
    """The dozen pictures beside the model: the first of each seed that is small, whatever the model says about it."""
    processor, model = load_with_transformers(options.folder)
    folder = os.path.join(options.folder, "pictures")
    os.makedirs(folder, exist_ok=True)
    lines = []
    for seed, (task, grid, ending) in enumerate(SAMPLES):
        rng = random.Random(4000 + seed)
        while True:
            picture, _, questions = pictures.draw(rng, task, grid, "test", 1.0, options.mnist)
            if 90 < max(picture.size) < 230 and questions[0][0] == task:
                break
        name = f"{seed + 1:02d}_{task.replace(' ', '_').replace('/', '_')}.{ending}"
        picture.save(os.path.join(folder, name), **({"quality": 92} if ending == "jpg" else {}))
        for _, question, answer in questions:
            said = reply(processor, model, Image.open(os.path.join(folder, name)), question)
            print(name, question, answer, "" if said == answer else f"   WRONG: {said}")
            lines.append(f"{name}\t{question}\t{answer}\n")
    with open(os.path.join(folder, "questions.tsv"), "w") as file:
        file.writelines(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", default="demo_work", help="folder of checkpoints")
    parser.add_argument("--folder", default=FOLDER, help="where the finished model goes")
    parser.add_argument("--mnist", help="folder with MNIST's test files; without it scikit-learn's digits alone are used")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--export", action="store_true", help="only write the folder from the checkpoint")
    parser.add_argument("--eval", action="store_true")
    parser.add_argument("--samples", action="store_true", help="only draw the folder's pictures and ask the model")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--nice", type=int, default=10, help="niceness of the process that draws")
    parser.add_argument("--pictures", type=int, default=200, help="pictures a task for --eval")
    parser.add_argument("--split", default="test", choices=("test", "train"), help="whose fonts and handwriting --eval uses")
    parser.add_argument("--muon", action=argparse.BooleanOptionalAction, default=True, help="Muon for the matrices, else AdamW")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--adapt", action=argparse.BooleanOptionalAction, default=True, help="draw more of what goes wrong")
    options = parser.parse_args()
    os.makedirs(options.work, exist_ok=True)
    if options.export:
        write_folder(options.folder, make_tokenizer(), torch.load(os.path.join(options.work, "checkpoint.pt"))["average"])
    elif options.samples:
        write_samples(options)
    elif options.eval:
        evaluate(options)
    else:
        train(options)
        evaluate(options)


if __name__ == "__main__":
    main()
