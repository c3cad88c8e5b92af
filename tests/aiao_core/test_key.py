import base64
import hashlib
import hmac
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiao_core.derivation import bound_bits, choose_layers, derive_bits
from aiao_core.errors import InvalidKey
from aiao_core.key import (
    Architecture,
    Binding,
    Layer,
    OwnerKey,
    PublicKey,
    Version,
    commitment,
    decode_secret,
    encode_secret,
    generate_seed,
)
from tests.support.places import GOLDEN

SEED = bytes(range(32))
seeds = st.binary(min_size=32, max_size=32)


SOURCE = "sha256:" + "5" * 64
BEACON = "drand round 4711: 00ff"


def make_key(seed: bytes = SEED, version: Version = 3) -> OwnerKey:
    layers = (Layer(name="down.conv", channels=12), Layer(name="mid.to_q", channels=9), Layer(name="up.conv", channels=20))
    key = OwnerKey(
        seed, Architecture(class_name="UNet2DModel", config={"sample_size": 8}), 1000, layers, ((0, 1), (0, 2), (1, 2)), version
    )
    return key.bound(SOURCE, 3, BEACON) if version == 3 else key


def hkdf_by_hand(seed: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 from its text: extract with a salt of zeros, then expand."""
    key = hmac.new(bytes(32), seed, hashlib.sha256).digest()
    output = block = b""
    counter = 1
    while len(output) < length:
        block = hmac.new(key, block + info + bytes([counter]), hashlib.sha256).digest()
        output += block
        counter += 1
    return output[:length]


@given(seeds, st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40), st.integers(1, 600))
def test_bits_follow_from_hkdf_by_hand(seed, layer, count):
    output = hkdf_by_hand(seed, f"aiao/v1/response-sign/{layer}".encode(), -(-count // 8))
    expected = [bool(output[k // 8] >> (k % 8) & 1) for k in range(count)]
    assert derive_bits(seed, "response-sign", layer, count).tolist() == expected


@given(seeds, st.sampled_from(["decoy", "other", "places"]), st.integers(0, 2**48 - 1), st.integers(0, 99))
def test_keys_that_nobody_owns_follow_from_the_owners_by_hand(seed, purpose, test, number):
    """A report is repeated with the same strangers, and only by a holder of the key."""
    expected = hkdf_by_hand(seed, f"aiao/v1/{purpose}/{test}/{number}".encode(), 32)
    assert make_key(seed).stranger_seed(purpose, test, number) == expected


def test_golden_vectors():
    assert commitment(SEED) == "sha256:" + hashlib.sha256(b"aiao/v1/commitment\0" + SEED).hexdigest()
    golden = json.loads((GOLDEN / "derivation-v1.json").read_text())
    for vector in golden["bits"]:
        bits = derive_bits(bytes.fromhex(golden["seed"]), vector["purpose"], vector["layer"], vector["count"])
        assert "".join("01"[int(bit)] for bit in bits) == vector["bits"]
    assert choose_layers(SEED, golden["candidates"], 3) == golden["chosen"]
    assert encode_secret(SEED) == golden["secret"]


@pytest.mark.parametrize("version", [1, 2, 3])
def test_golden_key_files_of_every_version_are_read(version):
    text = (GOLDEN / f"key-v{version}.json").read_text()
    key = OwnerKey.from_json(text)
    assert key == make_key(version=version)
    assert key.to_json() == text
    public = PublicKey.model_validate_json((GOLDEN / f"public-key-v{version}.json").read_text())
    assert public == key.public()
    assert OwnerKey.from_public(public, key.secret) == key


def test_the_response_is_on_every_channel_since_version_2():
    first, second = make_key(version=1), make_key(version=2)
    assert [second.response_mask(j).all() for j in range(3)] == [True] * 3
    assert [first.response_mask(j).tolist() for j in range(3)] == [
        derive_bits(SEED, "response-mask", layer.name, layer.channels).tolist() for layer in first.layers
    ]
    assert (first.bits, second.bits) == (16, 9 + 20)
    for purpose in (OwnerKey.trigger_mask, OwnerKey.trigger_sign, OwnerKey.response_sign):
        assert [purpose(first, j).tolist() for j in range(3)] == [purpose(second, j).tolist() for j in range(3)]


@given(seeds, st.integers(1, 600))
def test_bound_bits_follow_from_hkdf_by_hand(seed, count):
    output = hkdf_by_hand(seed, f"aiao/v3/response-sign/{'a' * 64}/0:x>1:y".encode(), -(-count // 8))
    expected = [bool(output[k // 8] >> (k % 8) & 1) for k in range(count)]
    assert bound_bits(seed, "response-sign", "a" * 64, "0:x>1:y", count).tolist() == expected


def test_the_signs_of_version_3_follow_from_a_digest_of_the_rest_of_the_key_by_hand():
    key = make_key()
    canonical = (
        '{"architecture":{"class_name":"UNet2DModel","config":{"sample_size":8}},'
        f'"binding":{{"beacon":"{BEACON}","protocol":3,"source":"{SOURCE}"}},'
        '"layers":[{"channels":12,"name":"down.conv"},{"channels":9,"name":"mid.to_q"},{"channels":20,"name":"up.conv"}],'
        '"num_train_timesteps":1000,"subpaths":[[0,1],[0,2],[1,2]]}'
    )
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    assert key.bound_to == digest
    bits = bound_bits(SEED, "response-sign", digest, "0:down.conv>2:up.conv", 20)
    assert key.subpath_sign(0, 2).tolist() == [1 if bit else -1 for bit in bits]
    assert key.bits == 9 + 20 + 20


def signs_of(key: OwnerKey) -> tuple[int, ...]:
    return tuple(key.subpath_sign(i, 2)[channel] for i in (0, 1) for channel in range(20))


CHANGES = {
    "seed": {"seed": bytes(32)},
    "source": {"binding": Binding(source="sha256:" + "6" * 64, protocol=3, beacon=BEACON)},
    "protocol": {"binding": Binding(source=SOURCE, protocol=4, beacon=BEACON)},
    "beacon": {"binding": Binding(source=SOURCE, protocol=3, beacon=BEACON[:-1])},
    "no beacon": {"binding": Binding(source=SOURCE, protocol=3)},
    "configuration": {"architecture": Architecture(class_name="UNet2DModel", config={"sample_size": 16})},
    "class": {"architecture": Architecture(class_name="UNet3DModel", config={"sample_size": 8})},
    "timesteps": {"num_train_timesteps": 999},
    "a subpath less": {"subpaths": ((0, 2), (1, 2))},
    "a subpath twice": {"subpaths": ((0, 1), (0, 2), (1, 2), (1, 2))},
    "their order": {"subpaths": ((0, 2), (0, 1), (1, 2))},
    "another layer": {"layers": (Layer(name="down.conv2", channels=12), *make_key().layers[1:])},
    "a layer twice": {"layers": (*make_key().layers, make_key().layers[-1])},
    "channels": {"layers": (Layer(name="down.conv", channels=13), *make_key().layers[1:])},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_anything_that_a_test_uses_changes_the_signs(change):
    """So nobody can fit a source, layers or subpaths to a suspect: about half of 40 signs turn."""
    key, other = make_key(), replace(make_key(), **CHANGES[change])
    agree = sum(first == second for first, second in zip(signs_of(key), signs_of(other), strict=True))
    assert 6 <= agree <= 34


@pytest.mark.parametrize("change", sorted(CHANGES.keys() - {"seed"}))
def test_layers_and_triggers_do_not_wait_for_what_binds_the_signs(change):
    """They are chosen before the source's digest or a beacon is known."""
    bound, other = make_key(), replace(make_key(), **CHANGES[change])
    for layer in (1, 2):
        assert bound.trigger_mask(layer).tolist() == other.trigger_mask(layer).tolist()
        assert bound.trigger_sign(layer).tolist() == other.trigger_sign(layer).tolist()
    unbound = replace(bound, binding=None)
    assert unbound.trigger_mask(0).tolist() == bound.trigger_mask(0).tolist()
    assert unbound.commitment == bound.commitment
    with pytest.raises(ValueError, match="not bound to a source yet"):
        unbound.subpath_sign(0, 1)
    with pytest.raises(ValueError, match="a binding since version 3"):
        unbound.public()


def test_each_subpath_has_signs_of_its_own():
    first, second = make_key().subpath_sign(0, 2), make_key().subpath_sign(1, 2)
    assert 2 <= int((first == second).sum()) <= 18


@given(seeds)
def test_secret_round_trip(seed):
    secret = encode_secret(seed)
    assert secret.startswith("aiao1")
    assert decode_secret(f"  {secret[:20]} {secret[20:].upper()}\n") == seed


@given(seeds, st.integers(5, 60), st.sampled_from("abcdefghijklmnopqrstuvwxyz234567"))
def test_a_mistyped_character_is_refused(seed, place, character):
    secret = encode_secret(seed)
    mistyped = secret[:place] + character + secret[place + 1 :]
    if mistyped != secret:
        with pytest.raises(InvalidKey, match="checksum"):
            decode_secret(mistyped)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "begins with"), ("aiao2" + "a" * 56, "begins with"), ("aiao1abc", "61 characters"), ("aiao1" + "0" * 56, "letters")],
)
def test_a_malformed_secret_says_why(text, reason):
    with pytest.raises(InvalidKey, match=reason):
        decode_secret(text)


def test_the_seed_never_shows_in_a_log():
    key = make_key()
    assert SEED.hex() not in repr(key)
    assert base64.b64encode(SEED).decode() not in repr(key)
    assert key.secret not in f"{key!r} {key.public()!r}"


@given(st.data())
def test_an_altered_key_file_is_refused(data):
    document = json.loads(make_key().to_json())
    change = data.draw(
        st.sampled_from(
            ["bits", "layer", "derived", "signs", "fewer signs", "source", "commitment", "subpath", "version", "secret"]
        )
    )
    if change == "bits":
        document["bits"] += 1
    elif change == "layer":
        document["layers"][0]["name"] = "down.other"
    elif change == "derived":
        row = document["derived"][data.draw(st.integers(0, 2))]
        row["trigger-sign"] = f"{int(row['trigger-sign'], 16) ^ 1:0{len(row['trigger-sign'])}x}"
    elif change == "signs":
        row = document["response_signs"][0]
        document["response_signs"][0] = f"{int(row, 16) ^ 1:0{len(row)}x}"
    elif change == "fewer signs":
        del document["response_signs"]
    elif change == "source":
        document["binding"]["source"] = "sha256:" + "6" * 64
    elif change == "commitment":
        document["commitment"] = commitment(bytes(32))
    elif change == "subpath":
        document["subpaths"][0] = [1, 0]
    elif change == "version":
        document["version"] = data.draw(st.sampled_from([1, 2, 4]))
    else:
        document["secret"] = encode_secret(bytes(32))
    with pytest.raises(InvalidKey):
        OwnerKey.from_json(json.dumps(document))


@given(st.text(max_size=200) | st.just("[" * 100_000))
def test_any_text_is_a_key_or_an_invalid_key(text):
    with pytest.raises(InvalidKey):
        OwnerKey.from_json(text)


def test_secret_and_public_part_make_the_key_again():
    key = make_key()
    for each in (key, make_key(version=2), replace(key, binding=Binding(source=SOURCE, protocol=3))):
        assert OwnerKey.from_public(each.public(), each.secret) == each
    with pytest.raises(InvalidKey, match="belongs to the commitment"):
        OwnerKey.from_public(key.public(), encode_secret(bytes(32)))


def test_derived_bits_are_balanced_and_independent():
    """Over many seeds: half of the bits are set, and signs of two purposes or layers agree half of the time."""
    rows = []
    for number in range(400):
        seed = hashlib.sha256(str(number).encode()).digest()
        rows.append([derive_bits(seed, purpose, layer, 64) for purpose in ("response-mask", "response-sign") for layer in "ab"])
    bits = np.array(rows)
    assert abs(bits.mean() - 0.5) < 5 * 0.5 / np.sqrt(bits.size)
    for first in range(4):
        for second in range(first):
            agree = (bits[:, first] == bits[:, second]).mean()
            assert abs(agree - 0.5) < 5 * 0.5 / np.sqrt(400 * 64)


def test_generated_seeds_differ():
    assert len({generate_seed() for _ in range(100)}) == 100
