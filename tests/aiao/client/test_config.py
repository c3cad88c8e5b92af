import pytest

from aiao import Client, ClientError
from aiao._client.config import Config, config_file, load_config


@pytest.fixture
def file(tmp_path, monkeypatch):
    """The configuration file that `aiao up` would write."""
    file = tmp_path / "config.toml"
    file.write_text('url = "http://file:1"\ntoken = "of the file"\n')
    monkeypatch.setenv("AIAO_CONFIG_FILE", str(file))
    monkeypatch.delenv("AIAO_URL", raising=False)
    monkeypatch.delenv("AIAO_TOKEN", raising=False)
    return file


def test_the_file_is_read(file):
    assert load_config() == Config("http://file:1", "of the file")


def test_the_environment_comes_before_the_file(file, monkeypatch):
    monkeypatch.setenv("AIAO_URL", "http://environment:2")
    monkeypatch.setenv("AIAO_TOKEN", "of the environment")
    assert load_config() == Config("http://environment:2", "of the environment")
    assert load_config(file) == Config("http://file:1", "of the file")


def test_the_environment_needs_no_file(file, monkeypatch):
    file.unlink()
    monkeypatch.setenv("AIAO_URL", "http://environment:2")
    monkeypatch.setenv("AIAO_TOKEN", "of the environment")
    assert load_config() == Config("http://environment:2", "of the environment")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("AIAO_URL", "http://file:1/", Config("http://file:1/", "of the file")),
        ("AIAO_TOKEN", "of the environment", Config("http://file:1", "of the environment")),
        ("AIAO_URL", "", Config("http://file:1", "of the file")),
    ],
)
def test_what_the_environment_lacks_comes_from_the_file(file, monkeypatch, name, value, expected):
    monkeypatch.setenv(name, value)
    assert load_config() == expected


def test_the_token_of_the_file_goes_to_no_other_service(file, monkeypatch):
    monkeypatch.setenv("AIAO_URL", "http://environment:2")
    with pytest.raises(ClientError, match="set AIAO_TOKEN"):
        load_config()


def test_what_a_program_names_comes_before_everything(file, monkeypatch):
    monkeypatch.setenv("AIAO_URL", "http://environment:2")
    with Client("http://program:3", "of the program") as client:
        assert client.url == "http://program:3"
        assert client.transport.http.headers["Authorization"] == "Bearer of the program"
    with pytest.raises(ClientError, match="another service"), Client("http://program:3"):
        pass


def test_a_program_that_names_the_address_needs_no_more_than_a_token(file, monkeypatch):
    file.unlink()
    monkeypatch.setenv("AIAO_TOKEN", "of the environment")
    with Client("http://program:3") as client:
        assert client.transport.http.headers["Authorization"] == "Bearer of the environment"


def test_a_missing_file_says_how_to_start_a_service(file):
    file.unlink()
    with pytest.raises(ClientError, match=r"aiao up.*AIAO_URL and AIAO_TOKEN"):
        load_config()


@pytest.mark.parametrize("content", [b"", b"url = ", b'url = "http://file:1"', b"\xff\xfe"])
def test_a_damaged_file_is_named(file, content):
    file.write_bytes(content)
    with pytest.raises(ClientError, match=r"config\.toml cannot be read.*aiao up"):
        load_config()


def test_a_folder_in_place_of_the_file_is_named(file):
    file.unlink()
    file.mkdir()
    with pytest.raises(ClientError, match=r"config\.toml cannot be read"):
        load_config()


def test_without_the_variable_the_file_is_in_the_users_own_folder(file, monkeypatch, tmp_path):
    monkeypatch.delenv("AIAO_CONFIG_FILE")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tmp_path in config_file().parents
    assert config_file().name == "config.toml"


@pytest.mark.parametrize("url", ["http://a:b", "localhost:8377", "ftp://somewhere", "http://:port", ""])
def test_an_address_that_is_none_is_refused_in_words(file, url):
    with pytest.raises(ClientError, match="address"):
        Client(url or "/v1", "token")


@pytest.mark.parametrize("token", ["schlüssel", "two\nlines", "nul\0"])
def test_a_token_that_is_none_is_refused_and_not_repeated(token):
    with pytest.raises(ClientError, match="token") as caught:
        Client("http://program:3", token)
    assert token not in str(caught.value)


def test_white_space_around_a_token_is_no_part_of_it():
    with Client("http://program:3", "token\r\n") as client:
        assert client.transport.http.headers["Authorization"] == "Bearer token"
