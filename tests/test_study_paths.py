"""Relative paths in a study mean the folder of the file that states them, from wherever a command runs."""

import shutil
from pathlib import Path

import pytest
from checkouts import REPOSITORY
from data_fixtures import texts

from tst_titan.data.sources import list_source
from tst_titan.data.tokenizers import given_file, train_bpe
from tst_titan.errors import UserError
from tst_titan.plan import load_plan
from tst_titan.plan.settings import CorpusSettings

STUDY = """\
corpus: {{source: own, sources: {{own: {{kind: {kind}, path: {path}}}}}, tokenizer: {tokenizer}}}
models: {models}
steps: 100
arms: {{baseline: {{}}}}
training: {{seq_len: 128, sequences_per_step: 8, warmup_steps: 10}}
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with studies, in which commands run."""
    folder = tmp_path / "checkout"
    (folder / "studies").mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def write(file: Path, path: str, *, kind: str = "files", tokenizer: str = "bpe-512", models: str = "2M") -> Path:
    file.parent.mkdir(exist_ok=True, parents=True)
    file.write_text(STUDY.format(path=path, kind=kind, tokenizer=tokenizer, models=models))
    return file


def text_file(file: Path) -> Path:
    file.parent.mkdir(exist_ok=True, parents=True)
    file.write_text(str(file))
    return file


def corpus_of(study: Path) -> CorpusSettings:
    (corpus,) = load_plan(study, Path("results")).corpora.values()
    return corpus


def files_of(corpus: CorpusSettings) -> list[str]:
    """Texts of the files that are read, which hold where they lie."""
    (source,) = corpus.sources
    return [Path(entry.path).read_text() for group in list_source(source).groups for entry in group]


def test_the_shipped_study_of_installed_packages_kept_its_identity_and_reads_the_checkouts_environment(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`path: .venv/lib` meant the folder in which the command ran; `../.venv/lib` beside the study is the same
    corpus."""
    study = Path(shutil.copy(REPOSITORY / "studies/tiny-scaling.yaml", "studies"))
    module = text_file(checkout / ".venv/lib/python3.11/site-packages/torch/nn.py")
    text_file(checkout / ".venv/lib/python3.11/site-packages/transformers/a.py")
    (corpus,) = load_plan(study, Path("results")).corpora.values()
    assert corpus.id == "torch+transformers-bpe2048-bdd8c6c6"
    assert [source.path for source in corpus.sources] == [".venv/lib", ".venv/lib"]
    assert files_of_source(corpus, 0) == [str(module)]
    # From elsewhere the same files, by another way.
    monkeypatch.chdir("/")
    (corpus,) = load_plan(checkout / study, Path("results")).corpora.values()
    assert files_of_source(corpus, 0) == [str(module)]


def files_of_source(corpus: CorpusSettings, number: int) -> list[str]:
    listing = list_source(corpus.sources[number])
    return [str(Path(entry.path).resolve()) for group in listing.groups for entry in group]


def test_studies_of_two_folders_with_one_text_read_their_own_files_and_share_no_corpus(
    checkout: Path,
) -> None:
    ours = text_file(checkout / "studies/texts/a.txt")
    theirs = text_file(checkout.parent / "colleague/texts/a.txt")
    mine = corpus_of(write(Path("studies/a.yaml"), "texts"))
    other = corpus_of(write(Path("../colleague/a.yaml"), "texts"))
    assert (files_of(mine), files_of(other)) == ([str(ours)], [str(theirs)])
    assert mine.sources[0].path == "studies/texts"
    assert other.sources[0].path == str(theirs.parent)
    assert mine.id != other.id


def test_whoever_states_a_path_is_where_it_begins(checkout: Path) -> None:
    base = text_file(checkout / "studies/shared/texts/a.txt")
    own = text_file(checkout / "studies/own/a.txt")
    train_bpe(checkout / "studies/shared/tok", texts(100), 300)
    tokenizer = "{kind: file, name: tok, vocab_size: 300}"
    write(Path("studies/shared/base.yaml"), "[texts/*.txt]", tokenizer=tokenizer)
    study = Path("studies/a.yaml")
    study.write_text("extends: shared/base.yaml\n")
    assert files_of(corpus_of(study)) == [str(base)]
    study.write_text("extends: shared/base.yaml\ncorpus: {sources: {own: {path: own}}}\n")
    corpus = corpus_of(study)
    assert files_of(corpus) == [str(own)]
    given = given_file(corpus.tokenizer)
    assert given is not None
    assert given.resolve() == checkout / "studies/shared/tok/tokenizer.json"


def test_a_models_own_corpus_and_each_of_several_paths(checkout: Path) -> None:
    names = [text_file(checkout / name / "a.txt") for name in ("one", "studies/two")]
    own = "{source: t, tokenizer: bpe-512, sources: {t: {kind: files, path: [../one, two]}}}"
    study = write(Path("studies/a.yaml"), "two", models=f"{{2M: {{corpus: {own}}}}}")
    assert sorted(files_of(corpus_of(study))) == [str(name) for name in names]


@pytest.mark.parametrize("path", ["/texts", "~/texts", "'/texts/**/*.txt'"])
def test_a_path_from_the_root_or_a_home_stays_as_it_is(checkout: Path, path: str) -> None:
    assert corpus_of(write(Path("studies/a.yaml"), path)).sources[0].path == path.strip("'")


def test_a_study_in_the_folder_of_the_command_keeps_its_texts(checkout: Path) -> None:
    text_file(checkout / "texts/a.txt")
    for path in ("texts", "./texts/", "texts//a.txt"):
        assert corpus_of(write(Path("a.yaml"), path)).sources[0].path == path


def test_a_link_to_a_folder_of_studies_leads_to_what_lies_beside_it(checkout: Path) -> None:
    """As the system reads `../`, and `extends` does."""
    text = text_file(checkout.parent / "elsewhere/texts/a.txt")
    write(checkout.parent / "elsewhere/studies/a.yaml", "../texts")
    (checkout / "linked").symlink_to(checkout.parent / "elsewhere/studies")
    assert files_of(corpus_of(Path("linked/a.yaml"))) == [str(text)]


@pytest.mark.parametrize(
    ("path", "mend"), [("texts", "../texts"), ("texts/*.txt", "../texts/*.txt"), ("texts/", "../texts/")]
)
def test_a_path_that_means_the_folder_of_the_command_is_refused_with_its_mend(
    checkout: Path, path: str, mend: str
) -> None:
    """It was read from wherever the command ran; the mend keeps the identity that it had."""
    text = text_file(checkout / "texts/a.txt")
    with pytest.raises(UserError) as refused:
        corpus_of(write(Path("studies/a.yaml"), path))
    assert str(refused.value) == (
        f"studies/a.yaml: corpus.sources.own.path = {path!r}: not found in studies, the folder of the file that says "
        "so, which a "
        f"relative path means (not the folder in which a command runs): write {mend!r}"
    )
    corpus = corpus_of(write(Path("studies/a.yaml"), mend))
    assert corpus.sources[0].path == path
    assert files_of(corpus) == [str(text)]


def test_all_paths_that_mean_the_folder_of_the_command_are_named_at_once(checkout: Path) -> None:
    text_file(checkout / "texts/a.txt")
    text_file(checkout / "tok/tokenizer.json")
    study = write(Path("studies/a.yaml"), "texts", tokenizer="{kind: file, name: tok/tokenizer.json, vocab_size: 300}")
    with pytest.raises(UserError) as refused:
        corpus_of(study)
    first, second = str(refused.value).splitlines()
    assert "corpus.sources.own.path" in first
    assert "corpus.tokenizer.name = 'tok/tokenizer.json'" in second
    assert second.endswith("write '../tok/tokenizer.json'")


def test_a_text_that_is_nowhere_is_no_mistake_of_the_plan(checkout: Path) -> None:
    """Of a whole corpus the text may be gone; a build says what it does not find."""
    corpus = corpus_of(write(Path("studies/a.yaml"), "../gone"))
    assert corpus.sources[0].path == "gone"
    with pytest.raises(UserError, match="path 'gone' matches no text file"):
        list_source(corpus.sources[0])


def test_a_dataset_of_the_hub_is_not_taken_from_a_folder_of_its_name(checkout: Path) -> None:
    """The library takes a folder of that name below the current one in silence."""
    study = write(Path("studies/a.yaml"), "org/name", kind="hub")
    assert corpus_of(study).sources[0].path == "org/name"
    text_file(checkout / "org/name/a.txt")
    with pytest.raises(UserError, match=r"path = 'org/name': names a repository .*: write '\.\./org/name' for"):
        corpus_of(study)
    assert corpus_of(write(study, "../org/name", kind="hub")).sources[0].path == "org/name"


def test_the_label_of_a_trained_tokenizer_is_no_path(checkout: Path) -> None:
    text_file(checkout / "studies/mine/a.txt")
    study = write(Path("studies/a.yaml"), "mine", tokenizer="{kind: bpe, name: mine, vocab_size: 300}")
    assert corpus_of(study).tokenizer.name == "mine"
