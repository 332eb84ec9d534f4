"""The command line of `jaxseg serve`: what is refused before a weight is read. tests/service/test_run.py runs it."""

import pytest

TOKEN = "0123456789abcdef-secret"


@pytest.fixture
def no_token(monkeypatch):
    monkeypatch.delenv("JAXSEG_TOKEN", raising=False)


@pytest.mark.usefixtures("no_token")
def test_another_interface_needs_a_token(jaxseg_command, tiny):
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        code, _, err = jaxseg_command("serve", "--weights", tiny, "--host", host)
        assert (code, err.count("\n"), "give a token with --token-file" in err) == (2, 1, True), err


@pytest.mark.usefixtures("no_token")
def test_short_tokens_and_two_tokens_are_refused(jaxseg_command, tiny, tmp_path, monkeypatch):
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    cases = [
        (["--token", "short"], "at least 16 characters"),
        (["--token", "with spaces in between"], "without spaces"),
        (["--token", TOKEN, "--token-file", file], "exclude each other"),
    ]
    for options, words in cases:
        code, _, err = jaxseg_command("serve", "--weights", tiny, *options)
        assert (code, words in err, TOKEN in err) == (2, True, False), err
    monkeypatch.setenv("JAXSEG_TOKEN", "short")
    code, _, err = jaxseg_command("serve", "--weights", tiny)
    assert (code, "at least 16 characters" in err, "short" in err.replace("is too short", "")) == (2, True, False), err


@pytest.mark.usefixtures("no_token")
def test_a_token_in_a_file_opens_other_interfaces_with_a_warning(jaxseg_command, tiny, tmp_path, monkeypatch):
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\nsecond line\n")
    given = {}
    monkeypatch.setattr(
        "jaxseg.service.run.run", lambda app, bound, _: given.update(app=app, host=bound.getsockname()[0])
    )
    monkeypatch.setattr("jaxseg.cli.serve._log_to_stdout", lambda: None)  # it would change the log of other tests
    code, _, err = jaxseg_command("serve", "--weights", tiny, "--host", "0.0.0.0", "--port", 0, "--token-file", file)
    assert (code, "without encryption" in err) == (0, True), err
    assert given["host"] == "0.0.0.0"
    given["app"].state.engine.workspace.close()
    guards = next(one.kwargs for one in given["app"].user_middleware)
    assert guards["token"] == TOKEN


@pytest.mark.usefixtures("no_token")
def test_weights_and_ports_that_cannot_be_used_are_reported_on_one_line(jaxseg_command, tiny, tmp_path):
    from jaxseg.service.run import bind

    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        code, _, err = jaxseg_command("serve", "--weights", tiny, "--port", port)
        assert (code, err.count("\n"), f"127.0.0.1:{port}" in err) == (1, 1, True), err
    code, _, err = jaxseg_command("serve", "--weights", tmp_path / "none")
    assert (code, "no such file" in err) == (2, True), err
    code, _, err = jaxseg_command("serve", "--weights", tiny, "--denoise", tiny, "--port", 0)
    assert (code, err.count("\n"), "a model of masks is needed" in err) == (2, 1, True), err
