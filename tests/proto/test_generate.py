"""The committed modules are what the compiler makes of the sources, byte for byte."""

from pathlib import Path

import pytest

from fracgpu.proto import generate

SOURCE = Path(generate.__file__).parent


def modules(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*_pb2*.py*"))}


def test_generating_again_changes_nothing(tmp_path: Path) -> None:
    made = generate.generate(tmp_path)
    fresh, committed = modules(tmp_path), {k: v for k, v in modules(SOURCE).items() if "__pycache__" not in k}
    assert [str(path) for path in made] == sorted(fresh)
    assert sorted(fresh) == sorted(committed)
    assert [name for name in fresh if fresh[name] != committed[name]] == [], "run `make proto`"


def test_every_source_is_generated() -> None:
    sources = {str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.proto")}
    assert sources == {*generate.SERVICES, *generate.MESSAGES}


def test_generated_text_names_no_path_of_this_machine() -> None:
    for name, content in modules(SOURCE).items():
        if "__pycache__" not in name:
            assert str(SOURCE.parent).encode() not in content
            assert b"/tmp" not in content


def test_a_broken_source_fails_with_the_compilers_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "source"
    broken.mkdir()
    (broken / "x.proto").write_text("syntax = nonsense")
    monkeypatch.setattr(generate, "HERE", broken)
    monkeypatch.setattr(generate, "SERVICES", ("x.proto",))
    output = tmp_path / "out"
    with pytest.raises(RuntimeError, match=r"x\.proto"):
        generate.generate(output)
    assert not output.exists()


def test_the_command_writes_to_the_given_folder(tmp_path: Path) -> None:
    assert generate.main(["--output", str(tmp_path)]) == 0
    assert (tmp_path / "dra" / "v1" / "api_pb2.py").is_file()
