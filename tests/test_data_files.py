"""Which files a path, a folder or a pattern means: links, hidden names, wildcards, and every name that is left out."""

import json
import os
import socket

import pyarrow.parquet as pq
import pytest
from data_fixtures import jsonl, settings, texts
from test_data_sources import everything, source

from tst_titan.data.build import build_corpus
from tst_titan.data.documents import document_hash
from tst_titan.data.held_out import ONE_IN
from tst_titan.data.sources import list_source
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
        assert list_source(source(tmp_path)).notes == ("local: left out, neither files nor folders: pipe.txt, socket",)
    assert names(source(tmp_path)) == ["a.txt"]


def test_what_is_left_out_stands_on_the_terminal_and_in_the_manifest(tmp_path, capsys):
    folder = tmp_path / "in"
    jsonl(folder / "a.jsonl", [*texts(150), *texts(5), " "])
    (folder / "gone").symlink_to(tmp_path / "nowhere")
    manifest = build_corpus(settings(folder), tmp_path / "corpus", num_workers=1)
    shown = capsys.readouterr().err
    for note in (
        "local: left out, links that lead nowhere: gone",
        "local: 1 empty documents skipped",
        "local: 5 exact duplicates dropped",
    ):
        assert note in manifest["notes"]
        assert note in shown


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


def test_a_folder_with_brackets_in_its_name_is_that_folder(tmp_path):
    for file in ("text[v1]/a.txt", "text[v1]/deep/b.txt", "textv/wrong.txt", "text1/wrong.txt"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(file)
    assert names(source(tmp_path / "text[v1]")) == ["a.txt", "deep/b.txt"]
    assert names(source(tmp_path / "text[v1]/**/*.txt")) == ["a.txt", "deep/b.txt"]
    assert names(source(tmp_path / "text[v1]/a.txt")) == ["a.txt"]
    assert names(source(tmp_path / "text[v]/*.txt")) == ["textv/wrong.txt"]
    with pytest.raises(UserError, match=r"text\[x\]/\*\.txt' matches no text file .*\[\[\] is the character"):
        list_source(source(tmp_path / "text[x]/*.txt"))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("/abs/*", r"local: file_pattern = '/abs/\*': is absolute; write it relative to the folder"),
        (
            "**.jsonl",
            r"= '\*\*\.jsonl': \*\* stands for folders .* write '\*\*/\*\.jsonl' for .* or '\*\.jsonl'",
        ),
        ("a**/b.txt", r"file_pattern = 'a\*\*/b\.txt': \*\* stands for folders"),
        (".", r"file_pattern = '\.': names no file; leave it out"),
    ],
)
def test_a_pattern_that_can_match_nothing_says_what_to_write(tmp_path, pattern, message):
    (tmp_path / "a.jsonl").write_text("{}")
    with pytest.raises(UserError, match=message):
        list_source(source(tmp_path, file_pattern=pattern))
    if not pattern.startswith(("/", ".")):
        with pytest.raises(UserError, match=message.replace("file_pattern", "path")):
            list_source(source(tmp_path / pattern))


def test_file_names_that_are_not_utf8_are_read_and_recorded(tmp_path):
    folder = tmp_path / "in"
    jsonl(folder / "a.jsonl", texts(150))
    name = os.fsencode(folder) + b"/caf\xe9.jsonl"
    with open(name, "w") as file:  # noqa: PTH123 (bytes)
        file.write("".join(json.dumps({"text": text}) + "\n" for text in texts(150, seed=1)))
    with open(os.fsencode(folder) + b"/b\xff.bin", "w"):  # noqa: PTH123
        pass
    chosen = settings(folder, validation_tokens=700)
    manifest = build_corpus(chosen, tmp_path / "corpus", num_workers=1)
    assert "local: left out, of other kinds: b\\xff.bin" in manifest["notes"]
    inputs = pq.read_table(tmp_path / "corpus/shards.parquet")["inputs"].to_pylist()
    assert {name for row in inputs for name in row} == {"a.jsonl", "caf\\xe9.jsonl"}
    held_out = (tmp_path / "corpus/validation.jsonl").read_text().splitlines()
    assert any(json.loads(line)["id"].startswith("local/caf\\xe9.jsonl:") for line in held_out)


@pytest.mark.parametrize("held_out", [False, True])
def test_one_large_text_file_is_told_that_it_is_one_document(tmp_path, held_out):
    number = next(n for n in range(1000) if (document_hash(f"text {n}. " * 900) < 2**64 // ONE_IN) == held_out)
    (tmp_path / "book.txt").write_text(f"text {number}. " * 900)
    with pytest.raises(
        UserError,
        match=r"a text file is one document, however long: write the texts of local \(1 text file\) as JSONL",
    ):
        build_corpus(settings(tmp_path / "book.txt"), tmp_path / "corpus", num_workers=1)


def test_several_paths_and_patterns_are_one_source(tmp_path):
    for file in ("a/x.txt", "a/deep/y.md", "b/x.txt", "b/z.log"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(file)
    both = source(f"{tmp_path}/a\n{tmp_path}/b")
    assert names(both) == [f"{tmp_path}/{file}" for file in ("a/deep/y.md", "a/x.txt", "b/x.txt")]
    assert list_source(both).notes == (f"local: left out, of other kinds: {tmp_path}/b/z.log",)
    assert names(source(tmp_path, file_pattern="*/*.txt\n**/*.log\n*/x.txt")) == [
        "a/x.txt",
        "b/x.txt",
        "b/z.log",
    ]
    with pytest.raises(UserError, match=r"path '.*/c' matches no text file"):
        list_source(source(f"{tmp_path}/a\n{tmp_path}/c"))
