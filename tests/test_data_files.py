"""Which files a path, a folder or a pattern means: links, hidden names, wildcards, and every name that is left out."""

import os
import socket

import pytest
from data_fixtures import jsonl, settings, texts
from test_data_sources import everything, source

from tst_titan.data.build import build_corpus
from tst_titan.data.corpora import list_source
from tst_titan.errors import UserError


def names(chosen):
    return sorted(entry.name for group in list_source(chosen).groups for entry in group)


@pytest.fixture
def linked(tmp_path):
    """Half of the text lies behind links; a link into the folder itself, one to its parent, one that leads nowhere."""
    elsewhere = tmp_path / "elsewhere"
    for file in ("in/own/a.txt", "elsewhere/deep/b.txt", "elsewhere/c.txt"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(f"the text of {file}")
    folder = tmp_path / "in"
    (folder / "linked").symlink_to(elsewhere)
    (folder / "single.txt").symlink_to(elsewhere / "c.txt")
    (folder / "own/round").symlink_to(folder)
    (elsewhere / "deep/up").symlink_to("..")
    (folder / "gone").symlink_to(tmp_path / "nowhere")
    (folder / "gone.txt").symlink_to(tmp_path / "nowhere.txt")
    (folder / "itself").symlink_to("itself")
    return folder


FOUND = ["linked/c.txt", "linked/deep/b.txt", "own/a.txt", "single.txt"]


@pytest.mark.parametrize("pattern", ["", "**", "**/*", "**/*.txt", "**/**/*.txt"])
def test_links_to_folders_and_files_are_followed_with_and_without_a_pattern(linked, pattern):
    listing = list_source(source(linked, file_pattern=pattern))
    assert names(source(linked, file_pattern=pattern)) == FOUND
    notes = "\n".join(listing.notes)
    assert "left out, links to a folder that they lie in: linked/deep/up, own/round" in notes
    assert "left out, links that lead nowhere: gone, gone.txt" in notes
    assert "left out, cannot be read (Too many levels of symbolic links): itself" in notes


def test_a_pattern_in_the_path_finds_what_the_same_file_pattern_finds(linked):
    assert names(source(linked / "**/*.txt")) == FOUND
    assert names(source(linked / "*/*.txt")) == ["linked/c.txt", "own/a.txt"]
    assert names(source(linked / "*/deep/*.txt")) == [f"{linked}/linked/deep/b.txt"]


def test_folders_that_link_to_each_other_end(tmp_path):
    for one, other in ("ab", "ba"):
        (tmp_path / one).mkdir()
        (tmp_path / one / "text.txt").write_text(one)
        (tmp_path / one / "other").symlink_to(tmp_path / other)
    found, _ = everything(source(tmp_path))
    assert [identity for identity, _ in found] == [
        "a/other/text.txt", "a/text.txt", "b/other/text.txt", "b/text.txt",
    ]  # fmt: skip


def test_hidden_files_and_folders_are_left_out_alike_unless_their_dot_is_written(tmp_path):
    for file in ("a.txt", ".b.txt", ".git/c.txt", "d/.cache/e.txt", "d/.f.txt", "d/g.txt"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(file)
    for chosen in (
        source(tmp_path),
        source(tmp_path, file_pattern="**/*.txt"),
        source(tmp_path / "**/*.txt"),
    ):
        assert names(chosen) == ["a.txt", "d/g.txt"]
        assert list_source(chosen).notes == ("local: left out, hidden: .b.txt, .git, d/.cache, d/.f.txt",)
    assert names(source(tmp_path, file_pattern=".git/*")) == [".git/c.txt"]
    assert names(source(tmp_path, file_pattern="**/.*.txt")) == [".b.txt", "d/.f.txt"]
    assert names(source(tmp_path / ".git")) == ["c.txt"]


def test_what_is_no_file_and_what_cannot_be_entered_is_named(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    os.mkfifo(tmp_path / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "socket"))
        assert list_source(source(tmp_path)).notes == (
            "local: left out, neither files nor folders: pipe.txt, socket",
        )
    assert names(source(tmp_path)) == ["a.txt"]


def test_what_is_left_out_stands_on_the_terminal_and_in_the_manifest(tmp_path, capsys):
    folder = tmp_path / "in"
    jsonl(folder / "a.jsonl", texts(150))
    (folder / "gone").symlink_to(tmp_path / "nowhere")
    manifest = build_corpus(settings(folder), tmp_path / "corpus", num_workers=1)
    assert "local: left out, links that lead nowhere: gone" in manifest["notes"]
    assert "local: left out, links that lead nowhere: gone" in capsys.readouterr().err


def test_many_names_are_counted_beyond_the_first(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    for number in range(30):
        (tmp_path / f"{number:02d}.bin").write_bytes(b"")
    (note,) = list_source(source(tmp_path)).notes
    assert note.startswith("local: left out, of other kinds: 00.bin, 01.bin")
    assert note.endswith("19.bin and 10 more")


def test_a_source_without_a_file_says_what_it_left_out(tmp_path):
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"matches no text file.*left out, links that lead nowhere: gone"):
        list_source(source(tmp_path))
