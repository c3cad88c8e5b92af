"""What a reference to the hub may look like, and what it never does."""

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aiao_core.errors import InvalidReference
from aiao_core.formats.hub import MAX_REFERENCE, REFERENCE, Reference, parse, without_scheme

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BEFORE = r"^hf://{w}/{w}(?:@{w}(?:/{w})*)?$".replace("{w}", r"[A-Za-z0-9_]+(?:[.-][A-Za-z0-9_]+)*")
"""The form of all references before they could name files."""


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("hf://a/b", Reference("a/b")),
        ("hf://a/b/", Reference("a/b")),
        ("hf://models/a/b", Reference("a/b")),
        ("hf://a-b.c/D_e-1.5@v1.0", Reference("a-b.c/D_e-1.5", "v1.0")),
        (f"hf://a/b@{COMMIT}/x.gguf", Reference("a/b", COMMIT, "x.gguf")),
        ("hf://a/b/folder/file.safetensors", Reference("a/b", None, "folder/file.safetensors")),
        ("hf://a/b/file@2.safetensors", Reference("a/b", None, "file@2.safetensors")),
        ("hf://a/b@main/Models/v2", Reference("a/b", "main", "Models/v2")),
        ("hf://a/b@main/Models/v2/", Reference("a/b", "main", "Models/v2")),
        ("hf://a/b@refs/pr/12", Reference("a/b", "refs/pr/12")),
        ("hf://a/b@refs/pr/12/x.gguf", Reference("a/b", "refs/pr/12", "x.gguf")),
        ("hf://a/b@refs%2Fpr%2F12/x.gguf", Reference("a/b", "refs/pr/12", "x.gguf")),
        ("hf://a/b@refs/convert/fp16/x/y.gguf", Reference("a/b", "refs/convert/fp16", "x/y.gguf")),
        ("hf://a/b@refs/pr/x", Reference("a/b", "refs", "pr/x")),
        ("hf://a/b@feature%2Fnew/x.gguf", Reference("a/b", "feature/new", "x.gguf")),
        ("hf://a/b?variant=fp16", Reference("a/b", variant="fp16")),
        ("hf://a/b@v2/sub?variant=fp16", Reference("a/b", "v2", "sub", "fp16")),
        ("hf://a/b/my%20model (v2).ckpt", Reference("a/b", None, "my model (v2).ckpt")),
        ("hf://a/b/why%3F%23%25.ckpt", Reference("a/b", None, "why?#%.ckpt")),
        ("hf://a/b/100%.ckpt", Reference("a/b", None, "100%.ckpt")),
        ("hf://a/b/模型.safetensors", Reference("a/b", None, "模型.safetensors")),
        ("hf://a/b/%E6%A8%A1%E5%9E%8B.safetensors", Reference("a/b", None, "模型.safetensors")),
        ("https://huggingface.co/a/b", Reference("a/b")),
        ("http://www.huggingface.co/a/b/", Reference("a/b")),
        ("https://hf.co/a/b", Reference("a/b")),
        ("HTTPS://HuggingFace.co/a/B", Reference("a/B")),
        ("https://huggingface.co/a/b.git", Reference("a/b")),
        ("https://huggingface.co/a/b#usage", Reference("a/b")),
        ("https://huggingface.co/a/b?not-for-all-audiences=true", Reference("a/b")),
        ("https://huggingface.co/a/b/tree/main", Reference("a/b", "main")),
        ("https://huggingface.co/a/b/tree/main/Models/v2", Reference("a/b", "main", "Models/v2")),
        ("https://huggingface.co/a/b/tree/refs%2Fpr%2F3/unet", Reference("a/b", "refs/pr/3", "unet")),
        ("https://huggingface.co/a/b/tree/refs/pr/3", Reference("a/b", "refs/pr/3")),
        ("https://huggingface.co/a/b/blob/feature%2Fnew/x.gguf", Reference("a/b", "feature/new", "x.gguf")),
        (f"https://huggingface.co/a/b/resolve/{COMMIT}/x.gguf?download=true", Reference("a/b", COMMIT, "x.gguf")),
        ("https://huggingface.co/a/b/blob/main/my%20model%20(v2).ckpt", Reference("a/b", "main", "my model (v2).ckpt")),
        ("https://huggingface.co/a/b/tree/main?show_file_info=x%2Fy.gguf", Reference("a/b", "main", "x/y.gguf")),
        ("https://huggingface.co/a/b?show_file_info=100%2525%20%E6%A8%A1.gguf", Reference("a/b", None, "100%25 模.gguf")),
        ("https://huggingface.co/a/b?show_file_info=y.gguf", Reference("a/b", None, "y.gguf")),
        ("https://somebody:secret@huggingface.co/a/b", Reference("a/b")),
    ],
)
def test_references_and_addresses(text, meant):
    assert parse(text) == meant
    assert parse(str(meant)) == meant


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hf://owner", "the owner or the name is missing"),
        ("hf://", "the owner or the name is missing"),
        ("hf://../name", "not one that the hub gives"),
        ("hf://owner/..", "not one that the hub gives"),
        ("hf://owner//x", "not one that the hub gives"),
        ("hf://owner/na me", "not one that the hub gives"),
        ("hf://ö/name", "not one that the hub gives"),
        ("hf://owner/name@", "the revision is not a branch, tag or commit"),
        ("hf://owner/name@/x.gguf", "the revision is not a branch, tag or commit"),
        ("hf://owner/name@..", "the revision is not a branch, tag or commit"),
        ("hf://owner/name@a%2F..%2Fb", "the revision is not a branch, tag or commit"),
        ("hf://owner/name@../x", "the revision is not a branch, tag or commit"),
        ("hf://owner/name@a//b", "empty or hidden name, or leads out of the repository"),
        ("hf://owner/name@main/../x.gguf", "leads out of the repository"),
        ("hf://owner/name/%2E%2E/x.gguf", "leads out of the repository"),
        ("hf://owner/name/..%2Fx.gguf", "leads out of the repository"),
        ("hf://owner/name/x%5C..%5Cy.gguf", "leads out of the repository"),
        ("hf://owner/name/.cache/x.gguf", "hidden name"),
        ("hf://owner/name/%FF.gguf", "escapes are not UTF-8"),
        ("hf://owner/name/a%00b", "control character"),
        ("hf://owner/name\n", "control character"),
        ("hf://owner/name/\udcff", "control character"),
        ("hf://owner/name?x=1", r"after \? only variant=… may stand.*%3F"),
        ("hf://owner/name?variant=", r"after \? only variant=… may stand"),
        ("hf://owner/name?variant=fp16&x=1", r"after \? only variant=… may stand"),
        ("hf://owner/name@main#x", "write # as %23"),
        ("hf://datasets/owner/name", "among the hub's datasets, which are not models"),
        ("https://huggingface.co/spaces/owner/name", "among the hub's spaces"),
        ("https://huggingface.co/owner", "the owner or the name is missing"),
        ("https://huggingface.co", "the owner or the name is missing"),
        ("https://huggingface.co/owner/name/discussions/3", "a page without files"),
        ("https://huggingface.co/owner/name/commit/" + COMMIT, "a page without files"),
        ("https://[::1/owner/name", "not an address either"),
        ("owner/name", "it has no hf:// before it"),
        ("", "it has no hf:// before it"),
        ("hf://a/b/" + "x" * (MAX_REFERENCE + 1), f"more than {MAX_REFERENCE} characters"),
        ("hf://a/b/" + "x" * 100_000, "100009 characters"),
    ],
)
def test_what_is_not_a_reference_is_refused_with_the_cause(text, words):
    with pytest.raises(InvalidReference, match=words) as refused:
        parse(text)
    assert "one looks like hf://owner/name@main" in str(refused.value)


def test_a_colon_before_the_file_is_refused_with_the_reference_that_is_meant():
    for text in ("hf://owner/name@main:a b.gguf", "hf://owner/name:a.gguf"):
        with pytest.raises(InvalidReference, match="a colon stands before the file; write a slash: ") as refused:
            parse(text)
        assert parse(str(refused.value).rpartition(": ")[2]) == parse(text.replace(":a", "/a"))


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("https://civitai.com/api/download/models/1?token=secret", "civitai.com"),
        ("https://somebody:secret@github.com/a/b/releases/x.safetensors", "github.com"),
        ("https://modelscope.cn/models/a/b", "modelscope.cn"),
        ("https://huggingface.co@169.254.169.254/a/b", "169.254.169.254"),
        ("https://huggingface.co.evil.example/a/b", "huggingface.co.evil.example"),
        ("https://huggingface.co:8443/a/b", "huggingface.co:8443"),
        ("https://evil.example/https://huggingface.co/a/b", "evil.example"),
        ("ftp://huggingface.co/a/b", "huggingface.co"),
        ("hf://a/b".replace("hf", "s3"), "a"),
        ("file://localhost/etc/passwd", "localhost"),
    ],
)
def test_the_address_of_another_host_is_refused_with_what_to_do(address, host):
    with pytest.raises(InvalidReference, match="no other host is ever contacted; download the file and submit it") as refused:
        parse(address)
    assert str(refused.value).startswith(f"{host} is not the Hugging Face hub")
    assert "secret" not in str(refused.value)


def test_an_address_of_the_configured_mirror_names_a_repository_too(monkeypatch):
    with pytest.raises(InvalidReference):
        parse("https://mirror.example:8443/a/b")
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example:8443/")
    assert parse("https://mirror.example:8443/a/b/blob/main/x.gguf") == Reference("a/b", "main", "x.gguf")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("someone/model", "hf://someone/model"),
        ("someone/FLUX.1-dev", "hf://someone/FLUX.1-dev"),
        ("someone/model@v1", "hf://someone/model@v1"),
        ("huggingface.co/someone/model/tree/main/unet", "hf://someone/model@main/unet"),
        ("hf.co/someone/model", "hf://someone/model"),
        ("someone/model.safetensors", None),
        ("out/model.zip", None),
        ("out/deep/model", None),
        ("./out/model", None),
        ("../model", None),
        ("/someone/model", None),
        ("~/model", None),
        ("model", None),
        ("", None),
    ],
)
def test_what_a_command_means_where_no_such_file_is(text, meant):
    assert (reference := without_scheme(text)) is None or str(reference) == meant
    assert (reference is None) == (meant is None)


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
paths = st.lists(st.one_of(names, st.sampled_from(["..", ".", "%2F", "%2e%2e", "refs", "pr", "3", "a\\b", "@", "?", "#"])))
pieces = st.one_of(names, st.sampled_from(["hf://", "https://huggingface.co/", "a/b", "@", "/", "?variant=", "%", "..", ":"]))


@given(st.one_of(st.lists(pieces).map("".join), paths.map(lambda path: "hf://a/b@" + "/".join(path))))
def test_no_text_leads_out_of_a_repository_and_what_is_parsed_stays_the_same(text):
    try:
        reference = parse(text)
    except InvalidReference:
        return
    shown = str(reference)
    assert parse(shown) == reference
    assert shown.startswith(f"hf://{reference.repository}")
    assert shown.isprintable()
    assert not re.search(r"[\s'\"`$&|;<>()*\\]", shown)
    assert re.fullmatch(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+", reference.repository)
    parts = [*reference.repository.split("/"), *(reference.revision or "main").split("/")]
    parts += reference.path.split("/") if reference.path else []
    assert not [part for part in parts if not part or part.startswith(".") or "\\" in part or "\0" in part]


@pytest.mark.long
@given(st.from_regex(REFERENCE, fullmatch=True))
def test_whatever_fits_the_documents_pattern_is_taken(text):
    assume(len(text) <= MAX_REFERENCE)
    parse(text)


@pytest.mark.long
@given(st.from_regex(BEFORE, fullmatch=True))
def test_every_reference_from_before_is_one_and_may_mean_what_it_meant(text):
    assume(len(text) <= 256)
    repository, _, revision = text.removeprefix("hf://").partition("@")
    reference = parse(text)
    assert Reference(repository, revision or None) in (reference, reference.as_revision)
    assert re.fullmatch(REFERENCE, text)


def test_a_commit_and_a_revision_that_is_written_with_escapes_have_one_meaning():
    for text in (f"hf://a/b@{COMMIT}/x", "hf://a/b@a%2Fb/c", "hf://a/b@refs/pr/1/x", "hf://a/b@main", "hf://a/b/x"):
        assert parse(text).as_revision is None
