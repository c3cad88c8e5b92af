"""Which files of a repository are the denoiser that a reference means, told from names and the beginnings of files."""

import pytest

from aiao_core.errors import LONGEST_SENTENCE, InvalidReference
from aiao_core.formats.hub import MAX_REFERENCE, parse
from aiao_core.formats.hub.choice import MAX_FILES, MAX_LOOKS, choose

REPOSITORY = "hf://o/n"
W = "diffusion_pytorch_model"
NEVER = ["model_index.json", "README.md", "run.py", "unet/run.py", "vae/config.json", f"vae/{W}.safetensors"]

FLUX = ["double_blocks.0.img_attn.qkv.weight", "single_blocks.0.linear1.weight"]
WHOLE = ["model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.decoder.conv_in.weight"]
LORA = ["lora_unet_mid_block.lora_down.weight", "lora_unet_mid_block.lora_up.weight"]
TEXT_LORA = ["lora_te_text_model.lora_down.weight"]
VAE = ["encoder.conv_in.weight", "decoder.conv_in.weight", "quant_conv.weight"]
T5 = ["shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight"]
QWEN = ["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"]
EMBEDDING = ["clip_l", "clip_g"]
UNKNOWN = ["layers.0.w"]


def chosen(names, reference=REPOSITORY, tensors=None) -> list[str]:
    return sorted(choose(names, parse(reference), (tensors or {}).get))


def refusal(names, reference=REPOSITORY, tensors=None) -> str:
    with pytest.raises(InvalidReference) as refused:
        chosen(names, reference, tensors)
    return str(refused.value)


def to_choose(sentence: str) -> list[str]:
    """The references that a refusal names."""
    return sentence.partition("name one of them: ")[2].partition(", or one of")[0].split(", ")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([f"unet/{W}.safetensors", f"unet/{W}.bin", "sd.ckpt"], [f"unet/{W}.safetensors"]),
        ([f"unet/{W}{v}.safetensors" for v in ("", ".fp16", ".non_ema")], [f"unet/{W}.safetensors"]),
        ([f"unet/{W}{v}.safetensors" for v in (".non_ema", ".fp16")], [f"unet/{W}.fp16.safetensors"]),
        ([f"unet/{W}{v}.safetensors" for v in (".fp16", ".bf16")], [f"unet/{W}.bf16.safetensors"]),
        ([f"unet/{W}.fp16.bin", f"unet/{W}.bin"], [f"unet/{W}.bin"]),
        ([f"unet/{W}.fp16.safetensors", f"unet/{W}.bin"], [f"unet/{W}.fp16.safetensors"]),
        (["unet/config.json", f"unet/{W}.bin", "config.json"], ["unet/config.json", f"unet/{W}.bin"]),
        (
            [f"transformer/{W}-0000{n}-of-00002.safetensors" for n in (1, 2)]
            + [f"transformer/{W}.safetensors.index.json", f"transformer/{W}.fp16-00001-of-00002.safetensors"]
            + [f"transformer/{W}.safetensors.index.fp16.json"],
            [f"transformer/{W}-0000{n}-of-00002.safetensors" for n in (1, 2)] + [f"transformer/{W}.safetensors.index.json"],
        ),
        (
            [f"unet/{W}-00001-of-00001.safetensors", f"unet/{W}.safetensors.index.json", f"unet/{W}.safetensors"],
            [f"unet/{W}.safetensors"],
        ),
        (["unet/openvino_model.bin", "unet/model.onnx", "big.safetensors"], ["big.safetensors"]),
        (["adapter_config.json", "adapter_model.safetensors", "x.py"], ["adapter_config.json", "adapter_model.safetensors"]),
        (["unet/adapter_config.json", "unet/adapter_model.bin"], ["unet/adapter_config.json", "unet/adapter_model.bin"]),
        (["config.json", f"{W}.safetensors"], ["config.json", f"{W}.safetensors"]),
        (["a.gguf", "a.ckpt"], ["a.gguf"]),
        (["a.ckpt", "a.safetensors"], ["a.safetensors"]),
        (["a b (v2).safetensors", ".hidden.safetensors", "..\\x.safetensors"], ["a b (v2).safetensors"]),
        (["a.dduf", "README.md"], ["a.dduf"]),
        (["a.sft", "config.json"], ["a.sft"]),
        (["a.safetensors", "optimizer.bin", "scheduler.bin", "random_states_0.pth", "training_args.bin"], ["a.safetensors"]),
        # A diffusers folder comes first, whatever lies beside it.
        ([f"unet/{W}.safetensors", "xl.safetensors", "example-lora.safetensors"], [f"unet/{W}.safetensors"]),
        # Wan 2.2 has two denoisers.
        (
            [f"transformer{n}/{name}" for n in ("", "_2") for name in (f"{W}.safetensors", "config.json")],
            [f"transformer{n}/{name}" for n in ("", "_2") for name in (f"{W}.safetensors", "config.json")],
        ),
        # The top has none: one below it is taken.
        (["Models/v2/mine.safetensors"], ["Models/v2/mine.safetensors"]),
        (["text_encoder/model.safetensors", "text_encoder_2/a.bin", "tokenizer/a.bin", "x/mine.ckpt"], ["x/mine.ckpt"]),
        (["pipe/unet/config.json", f"pipe/unet/{W}.bin", f"pipe/vae/{W}.bin"], ["pipe/unet/config.json", f"pipe/unet/{W}.bin"]),
        ([f"pipe/transformer{n}/{W}.bin" for n in ("", "_2")], [f"pipe/transformer{n}/{W}.bin" for n in ("", "_2")]),
    ],
)
def test_which_files_are_chosen(names, expected):
    assert chosen(names + NEVER) == sorted(expected)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        # Several quantizations, saves, formats, precisions and versions.
        (["f-Q8_0.gguf", "f-Q4_K_S.gguf", "f-F16.gguf"], ["f-F16.gguf", "f-Q4_K_S.gguf", "f-Q8_0.gguf"]),
        (["me_000250.safetensors", "me_000500.safetensors", "me.safetensors"],) * 2,
        (["pytorch_lora_weights.safetensors", "me.safetensors"],) * 2,
        (["mine.safetensors", "mine_fp16.safetensors"],) * 2,
        (["mine.fp16.safetensors", "mine.fp32.safetensors"],) * 2,
        (["a.ckpt", "a.pt"],) * 2,
        (["a.safetensors", "b.ckpt"],) * 2,
        (["a.gguf", "b.safetensors"],) * 2,
        (["a.dduf", "b.dduf"],) * 2,
        (["x/a.safetensors", "y/b.safetensors", "text_encoder/c.safetensors"], ["x/a.safetensors", "y/b.safetensors"]),
        (["checkpoint-500/a.safetensors", "checkpoint-900/a.safetensors"],) * 2,
        ([f"lightning/unet/{W}.safetensors", "turbo.safetensors", "hyper.ckpt"], ["turbo.safetensors", "hyper.ckpt"]),
        ([f"{name}_noise_model/{W}.safetensors" for name in ("high", "low")] + ["Wan2.1_VAE.pth", "models_t5_umt5.pth"],
         [f"{name}_noise_model/{W}.safetensors" for name in ("high", "low")]),
        ([f"v1/unet/{W}.safetensors", f"v2/unet/{W}.safetensors"], ["v1", "v2"]),
        ([f"unet/{W}.safetensors", f"transformer/{W}.safetensors"], ["unet", "transformer"]),
        (["a-00001-of-00002.safetensors", "a-00002-of-00002.safetensors", "a.safetensors.index.json", "b.ckpt"],
         ["a.safetensors.index.json", "b.ckpt"]),
    ],
)  # fmt: skip
def test_where_several_models_may_be_meant_each_is_named_and_each_name_means_one(names, expected):
    sentence = refusal(names + NEVER)
    assert f"holds {len(expected)} models" in sentence
    references = to_choose(sentence)
    assert sorted(references) == sorted(f"{REPOSITORY}/{name}" for name in expected)
    ones = [tuple(chosen(names + NEVER, reference)) for reference in references]
    assert len(set(ones)) == len(ones)
    assert all(set(files) <= set(names) for files in ones)


def test_variants_that_may_be_other_models_are_named():
    names = [f"unet/{W}.{variant}.safetensors" for variant in ("inpainting", "fp16", "non_ema")]
    assert to_choose(refusal(names)) == [f"{REPOSITORY}?variant=fp16", f"{REPOSITORY}?variant=inpainting"]
    assert chosen(names, f"{REPOSITORY}?variant=inpainting") == [f"unet/{W}.inpainting.safetensors"]


@pytest.mark.parametrize(
    ("names", "tensors", "expected"),
    [
        (["flux.gguf", "ae.safetensors"], {"ae.safetensors": VAE}, ["flux.gguf"]),
        (["flux.gguf", "a.safetensors", "b.safetensors"], {"a.safetensors": T5, "b.safetensors": QWEN}, ["flux.gguf"]),
        (["flux-Q8_0.gguf", "t5-v1_1-xxl-encoder-Q8_0.gguf", "sdxl_vae.pt", "clip_l.bin"], {}, ["flux-Q8_0.gguf"]),
        (["me.safetensors", "me_emb.safetensors"], {"me.safetensors": LORA, "me_emb.safetensors": EMBEDDING},
         ["me.safetensors"]),
        (["me.safetensors", "te.safetensors"], {"me.safetensors": LORA, "te.safetensors": TEXT_LORA}, ["me.safetensors"]),
        (["one.safetensors", "two.safetensors"], {"one.safetensors": VAE, "two.safetensors": WHOLE}, ["two.safetensors"]),
        # Only companions at the top, as in repositories for image programs.
        (["ae.safetensors", "split_files/diffusion_models/f.safetensors"], {"ae.safetensors": VAE},
         ["split_files/diffusion_models/f.safetensors"]),
        ([f"split_files/{name}.safetensors" for name in ("diffusion_models/f", "text_encoders/t", "vae/v")], {},
         ["split_files/diffusion_models/f.safetensors"]),
        (["a.safetensors", "x/b.safetensors", "x/c.safetensors"],
         {"a.safetensors": VAE, "x/b.safetensors": T5, "x/c.safetensors": FLUX}, ["x/c.safetensors"]),
        # As Wan 2.1 was published, and a quantized copy of such a one.
        (["config.json", f"{W}-00001-of-00002.safetensors", f"{W}-00002-of-00002.safetensors", "Wan2.1_VAE.pth",
          f"{W}.safetensors.index.json", "models_t5_umt5-xxl-enc-bf16.pth", "google/umt5-xxl/tokenizer.json"],
         {f"{W}-00001-of-00002.safetensors": ["blocks.0.cross_attn.k.weight"]},
         ["config.json", f"{W}-00001-of-00002.safetensors", f"{W}-00002-of-00002.safetensors", f"{W}.safetensors.index.json"]),
        (["HighNoise/wan-Q8_0.gguf", "VAE/Wan2.1_VAE.safetensors", "Tokenizer/a.bin"], {}, ["HighNoise/wan-Q8_0.gguf"]),
        # One file is what it is: its reader says so.
        (["ae.safetensors"], {"ae.safetensors": VAE}, ["ae.safetensors"]),
        (["flux.safetensors", "te/model-00001-of-00002.safetensors", "te/model-00002-of-00002.safetensors"],
         {"flux.safetensors": FLUX}, ["flux.safetensors"]),
    ],
)  # fmt: skip
def test_what_lies_beside_a_denoiser_is_told_by_its_tensors(names, tensors, expected):
    assert chosen(names, tensors=tensors) == expected


@pytest.mark.parametrize("tensors", [FLUX, WHOLE, LORA, UNKNOWN, None])
def test_a_denoiser_that_is_called_a_vae_is_one_of_two(tensors):
    """Also if its beginning cannot be read, because a reader of the whole file may read it all the same."""
    names = ["ae.safetensors", "decoy.gguf"]
    assert to_choose(refusal(names, tensors={"ae.safetensors": tensors})) == [f"{REPOSITORY}/{name}" for name in names]


def test_a_denoiser_among_more_files_than_are_looked_at_is_one_of_them():
    names = [f"t5-{n}.safetensors" for n in range(MAX_LOOKS)] + ["decoy.gguf"]
    assert f"holds {len(names)} models" in refusal(names)


def test_of_a_few_files_the_tensors_are_looked_at_and_of_many_none():
    looked = []

    def look(name: str) -> None:
        looked.append(name)

    choose(["one.safetensors"], parse(REPOSITORY), look)
    choose([f"unet/{W}.safetensors", "a.safetensors", "b.safetensors"], parse(REPOSITORY), look)
    choose(["a.safetensors", "b.safetensors"], parse(f"{REPOSITORY}/b.safetensors"), look)
    with pytest.raises(InvalidReference, match=f"holds {MAX_LOOKS + 1} models"):
        choose([f"{n}.safetensors" for n in range(MAX_LOOKS + 1)], parse(REPOSITORY), look)
    assert looked == []
    with pytest.raises(InvalidReference, match="holds 2 models"):
        choose(["a.safetensors", "b-00001-of-00002.safetensors", "b-00002-of-00002.safetensors"], parse(REPOSITORY), look)
    assert looked == ["a.safetensors", "b-00001-of-00002.safetensors"]


BIG = [f"big/a{part}" for part in ("-00001-of-00002.safetensors", "-00002-of-00002.safetensors", ".safetensors.index.json")]
SEVERAL = [
    "mine.safetensors", "mine.ckpt", "mine-Q4.gguf", "Models/v2/mine.safetensors", "Models/v2/ae.safetensors", "config.json",
    f"unet/{W}.safetensors", f"unet/{W}.fp16.safetensors", "unet/config.json", "vae/vae.safetensors",
    "pytorch_lora_weights.bin",
    "lora/adapter_model.safetensors", "lora/adapter_config.json", "lora/other.safetensors",
    *BIG,
]  # fmt: skip


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("/mine.safetensors", ["mine.safetensors"]),
        ("/mine.ckpt", ["mine.ckpt"]),
        ("@main/mine-Q4.gguf", ["mine-Q4.gguf"]),
        ("@refs/pr/3/Models/v2/mine.safetensors", ["Models/v2/mine.safetensors"]),
        ("/vae/vae.safetensors", ["vae/vae.safetensors"]),
        ("/unet", ["unet/config.json", f"unet/{W}.safetensors"]),
        ("", ["unet/config.json", f"unet/{W}.safetensors"]),
        ("?variant=fp16", ["unet/config.json", f"unet/{W}.fp16.safetensors"]),
        ("@main/unet?variant=fp16", ["unet/config.json", f"unet/{W}.fp16.safetensors"]),
        ("/lora/adapter_model.safetensors", ["lora/adapter_config.json", "lora/adapter_model.safetensors"]),
        (f"/unet/{W}.fp16.safetensors", [f"unet/{W}.fp16.safetensors"]),
        ("/lora/other.safetensors", ["lora/other.safetensors"]),
        ("/big", BIG),
        ("/big/a.safetensors.index.json", BIG),
        ("/big/a-00002-of-00002.safetensors", BIG),
    ],
)  # fmt: skip
def test_a_file_or_folder_that_is_named(place, expected):
    assert chosen(SEVERAL + NEVER, REPOSITORY + place) == expected


@pytest.mark.parametrize(
    ("names", "place", "words"),
    [
        (SEVERAL, "/other.safetensors", r"does not exist; name one of them: hf://o/n/lora/other\.safetensors, hf://o/n/Models"),
        (SEVERAL, "/Models/v1", "does not exist; name one of them"),
        (SEVERAL, "/config.json", "is not a file of weights; name one of them"),
        (SEVERAL, "/mine.ckpt?variant=fp16", "names a file, which has no variants"),
        (SEVERAL, "?variant=bf16", "there is no such variant, but fp16, the plain one"),
        (SEVERAL, "/Models/v2?variant=fp16", "only the weights of a diffusers folder have variants"),
        (["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"], "", "part of a split GGUF file.*llama-gguf-split --merge"),
        (["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"], "/m-00001-of-00002.gguf", "part of a split GGUF file"),
        ([], "", "holds no weights of a denoiser: .*; name another repository"),
        (["README.md"], "/README.md", "is not a file of weights"),
        (["../a.safetensors", "unet/../../b.safetensors", "/c.safetensors", "C:/d.ckpt", "x//e.ckpt", "a.py", "f\0.ckpt"], "",
         "holds no weights of a denoiser"),
        (["text_encoder/model.safetensors"], "", "holds no weights .*; name one of them: hf://o/n/text_encoder/model.safetensors"),
        ([f"unet/{W}.safetensors.index.json"], "", "holds no weights of a denoiser"),
        (["x" * (MAX_REFERENCE + 1) + ".ckpt"], "", "holds no weights of a denoiser"),
        ([f"a-{n:05}-of-01001.safetensors" for n in range(1, MAX_FILES + 2)], "", f"{MAX_FILES + 1} files, and at most"),
    ],
)  # fmt: skip
def test_what_cannot_be_chosen_is_refused_with_what_to_name(names, place, words):
    with pytest.raises(InvalidReference, match=words):
        chosen(names, REPOSITORY + place)


def test_many_models_are_refused_in_one_sentence_of_a_few_references():
    names = [f"{'模' * 300}{n}.gguf" for n in range(5000)]
    sentence = refusal(names)
    assert "holds 5000 models" in sentence
    assert len(sentence) <= LONGEST_SENTENCE
    assert refusal([f"{n:03}.gguf" for n in range(100)]).endswith("hf://o/n/011.gguf, or one of 88 others")


def test_names_that_a_reference_must_escape_are_shown_as_it_takes_them():
    names = ["my model (v2).ckpt", "why?#%&;.ckpt", "模型\u202e.ckpt"]
    references = to_choose(refusal(names))
    assert references == [
        "hf://o/n/my%20model%20%28v2%29.ckpt",
        "hf://o/n/why%3F%23%25%26%3B.ckpt",
        "hf://o/n/模型%E2%80%AE.ckpt",
    ]
    assert [chosen(names, reference) for reference in references] == [[name] for name in names]
