"""The command line as a person runs it: real processes, their output, their exit status."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import holdfast

if TYPE_CHECKING:
    from holdfast.testing.redis_process import RedisServer

ROOT = Path(__file__).resolve().parents[2]
SECRET = "correct-horse-battery-staple"


class Done:
    """What a run of the command line left: its status, and what it printed where."""

    def __init__(self, process: subprocess.CompletedProcess[str]) -> None:
        self.status = process.returncode
        self.out = process.stdout
        self.err = process.stderr
        assert SECRET not in self.out + self.err

    def line(self, start: str) -> str:
        """The only line that begins with *start*, spaces evened."""
        lines = [" ".join(each.split()) for each in self.out.splitlines()]
        (found,) = (each for each in lines if each.startswith(start))
        return found


def run(*arguments: str, cwd: Path, **environ: str) -> Done:
    command = [sys.executable, "-W", "error", *arguments]
    return Done(
        subprocess.run(
            command,
            cwd=cwd,
            env=os.environ | environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    )


def cli(*arguments: str, cwd: Path, **environ: str) -> Done:
    return run("-m", "holdfast", *arguments, cwd=cwd, **environ)


# --- common to all commands -----------------------------------------------------------------------


def test_the_console_script_tells_its_version(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("holdfast")
    done = run(str(script), "--version", cwd=tmp_path)
    assert (done.status, done.out) == (0, f"holdfast {holdfast.__version__}\n")


def test_help_names_every_command(tmp_path: Path) -> None:
    done = cli("-h", cwd=tmp_path)
    assert done.status == 0
    assert set(re.findall(r"^  (\w+) ", done.out, re.MULTILINE)) >= {"check", "demo", "env"}


@pytest.mark.parametrize("group", [(), ("runs",), ("sessions",)], ids=["all", "runs", "sessions"])
def test_each_command_is_told_in_a_line_that_is_whole(
    group: tuple[str, ...], tmp_path: Path
) -> None:
    listed = cli(*group, "--help", cwd=tmp_path).out.partition("Commands:\n")[2]
    assert listed
    assert "..." not in listed


@pytest.mark.parametrize(
    ("package", "command"), [("click", "--version"), ("uvicorn", "demo")], ids=["click", "uvicorn"]
)
def test_a_missing_package_is_told_in_one_line(package: str, command: str, tmp_path: Path) -> None:
    program = f"import sys; sys.modules[{package!r}] = None; sys.argv[1:] = [{command!r}]\n"
    done = run("-c", f"{program}from holdfast.cli import main; main()", cwd=tmp_path)
    assert done.status == 2
    assert done.err == f'holdfast: {package} is missing: pip install "holdfast[cli]"\n'


@pytest.mark.parametrize("command", ["check", "demo"])
def test_a_wrong_configuration_is_told_on_standard_error(command: str, tmp_path: Path) -> None:
    environ = {"HOLDFAST_REDIS_URL": f"redis://:{SECRET}@h:x", "HOLDFAST_REDIS_TIMEOUT": "soon"}
    done = cli(command, cwd=tmp_path, **environ)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("holdfast: 2 settings cannot work:\n  HOLDFAST_REDIS_URL")
    assert "Traceback" not in done.err


def test_dotenv_is_read_for_what_the_environment_does_not_say(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "HOLDFAST_SESSION_COOKIE=from_file\n"
        "export HOLDFAST_SESSION_PATH='/from/file'  # a comment\n"
        "HOLDFAST_APP\n"
    )
    done = cli("check", cwd=tmp_path, HOLDFAST_SESSION_COOKIE="said")
    assert done.line("HOLDFAST_SESSION_COOKIE") == (
        "HOLDFAST_SESSION_COOKIE said HOLDFAST_SESSION_COOKIE"
    )
    assert done.line("HOLDFAST_SESSION_PATH") == (
        "HOLDFAST_SESSION_PATH /from/file HOLDFAST_SESSION_PATH (.env)"
    )
    assert done.line("HOLDFAST_APP").endswith("none default")


def test_a_dotenv_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"HOLDFAST_APP=\xff\n")
    done = cli("check", cwd=tmp_path)
    assert done.status == 2
    assert done.err.startswith("holdfast: .env cannot be read: ")


# --- check ----------------------------------------------------------------------------------------


def test_check_in_memory_says_what_that_means(tmp_path: Path) -> None:
    done = cli("check", cwd=tmp_path)
    assert (done.status, done.err) == (1, "")
    assert "random one per process" in done.line("warning secret key:")
    assert "memory of one process" in done.line("warning redis:")
    assert done.out.endswith("\nThere are 2 warnings.\n")


def test_check_of_redis_turned_off_on_purpose_is_well(tmp_path: Path) -> None:
    done = cli("check", cwd=tmp_path, HOLDFAST_REDIS_URL="off", HOLDFAST_SECRET_KEY=SECRET)
    assert (done.status, done.err) == (0, "")
    assert done.line("HOLDFAST_SECRET_KEY") == "HOLDFAST_SECRET_KEY *** HOLDFAST_SECRET_KEY"
    assert done.out.endswith("\nAll is well.\n")


def test_check_tells_an_unknown_variable_as_a_warning(tmp_path: Path) -> None:
    environ = {"HOLDFAST_REDIS_URL": "off", "HOLDFAST_SECRET_KEY": f"{SECRET},{SECRET}2"}
    done = cli("check", cwd=tmp_path, HOLDFAST_REDIS_ULR="x", **environ)
    assert (done.status, done.err) == (1, "")
    assert done.line("warning configuration:").endswith("did you mean HOLDFAST_REDIS_URL?")
    assert done.line("ok secret key:") == "ok secret key: set; 2 in use"
    assert done.out.endswith("\nThere is 1 warning.\n")


def test_check_looks_at_redis_and_finds_it_well(fresh_redis: RedisServer, tmp_path: Path) -> None:
    fresh_redis.execute("CONFIG", "SET", "appendonly", "yes", "requirepass", SECRET)
    url = f"redis://:{SECRET}@127.0.0.1:{fresh_redis.port}/0"
    done = cli("check", cwd=tmp_path, REDIS_URL=url, HOLDFAST_SECRET_KEY=SECRET)
    assert done.line("HOLDFAST_REDIS_URL") == (
        f"HOLDFAST_REDIS_URL redis://:***@127.0.0.1:{fresh_redis.port}/0 REDIS_URL"
    )
    names = re.findall(r"^  ok +([\w ]+):", done.out, re.MULTILINE)
    assert {"version", "role", "eviction", "persistence", "latency", "write"} <= set(names)
    assert done.out.endswith("\nAll is well.\n")
    assert (done.status, done.err) == (0, "")


def test_check_warns_of_a_redis_that_may_lose_sessions(
    fresh_redis: RedisServer, tmp_path: Path
) -> None:
    fresh_redis.execute("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    done = cli("check", cwd=tmp_path, REDIS_URL=fresh_redis.url)
    assert done.status == 1
    assert "allkeys-lru" in done.line("warning eviction:")
    assert "HOLDFAST_SECRET_KEY is not set" in done.line("warning secret key:")


def test_check_of_a_redis_that_does_not_answer_is_a_problem(free_port: int, tmp_path: Path) -> None:
    url = f"redis://:{SECRET}@127.0.0.1:{free_port}/0"
    done = cli("check", cwd=tmp_path, REDIS_URL=url, HOLDFAST_SECRET_KEY=SECRET)
    assert (done.status, done.err) == (2, "")
    assert done.line("problem reachable:").startswith("problem reachable: refused")
    assert done.out.endswith("\nThere is 1 problem.\n")


def test_check_of_a_read_only_replica_is_a_problem(
    fresh_redis: RedisServer, free_port: int, tmp_path: Path
) -> None:
    fresh_redis.execute("REPLICAOF", "127.0.0.1", free_port)
    done = cli("check", cwd=tmp_path, REDIS_URL=fresh_redis.url)
    assert done.status == 2
    assert "replica" in done.line("problem role:") or "slave" in done.line("problem role:")
    assert done.line("problem write:")
    assert re.search(r"There are \d problems and \d warnings\.\n$", done.out)


# --- env ------------------------------------------------------------------------------------------


def test_the_page_of_the_documentation_is_what_env_prints(tmp_path: Path) -> None:
    page = (ROOT / "docs/reference/environment.md").read_text()
    _, marker, made = page.partition("<!-- From here on: the output of `holdfast env`. -->\n\n")
    assert marker
    assert made == cli("env", cwd=tmp_path).out, (
        "copy the output of `holdfast env` to the end of docs/reference/environment.md"
    )


def test_the_example_dotenv_is_what_env_prints(tmp_path: Path) -> None:
    made = cli("env", "--format", "dotenv", cwd=tmp_path).out
    assert made == (ROOT / ".env.example").read_text(), (
        "run: holdfast env --format dotenv > .env.example"
    )


def test_the_example_dotenv_sets_nothing_until_a_line_is_uncommented(tmp_path: Path) -> None:
    example = (ROOT / ".env.example").read_text()
    (tmp_path / ".env").write_text(example)
    assert not re.search(r"\(\.env\)", cli("check", cwd=tmp_path).out)
    # All at once, with what __Host-… needs; a line without a value stays unset.
    (tmp_path / ".env").write_text(re.sub(r"^# (?=HOLDFAST_\w+=)", "", example, flags=re.MULTILINE))
    done = cli(
        "check", cwd=tmp_path, HOLDFAST_SESSION_DOMAIN="example.com", HOLDFAST_REDIS_URL="off"
    )
    assert "cannot work" not in done.err
    assert done.out.count("(.env)") > 40
    assert done.line("HOLDFAST_SECRET_KEY") == "HOLDFAST_SECRET_KEY none default"


def test_an_unknown_format_is_a_usage_error(tmp_path: Path) -> None:
    done = cli("env", "--format", "toml", cwd=tmp_path)
    assert done.status == 2
    assert "'markdown', 'dotenv'" in done.err
