"""CSV files as people have them: read where they have one meaning, else refused with what to do."""

import re
import unicodedata
from pathlib import Path

import pytest
from conftest import draw

from features.errors import CachedFeaturesError, RequestError, SourceError, on_command_line
from features.sources.lists.manifest import ListOptions
from features.sources.load import load_source
from features.sources.source import warn_of_like_names

ROWS = [(f"{label}/{number}.png", label) for label in ("rings", "stripes") for number in range(6)]


@pytest.fixture
def folder(tmp_path):
    for seed, (path, _) in enumerate(ROWS):
        draw(tmp_path / path, seed)
    return tmp_path


def read(folder, text, encoding="utf-8", column=None, **options):
    (folder / "m.csv").write_bytes(text.encode(encoding))
    return load_source(str(folder / "m.csv"), allow_missing_classes=True, options=ListOptions(**options), column=column)


def table(header="path,label", separator=",", rows=ROWS):
    return "".join(f"{line}\n" for line in [header, *(separator.join(row) for row in rows)])


@pytest.mark.parametrize(
    ("text", "encoding", "note"),
    [
        (table("path;label", ";").replace("\n", "\r\n"), "utf-8-sig", "m.csv is read with semicolons between fields"),
        (table("path\tlabel", "\t"), "utf-8", "m.csv is read with tabs between fields"),
        (table("path|label", "|"), "utf-8", "m.csv is read with bars between fields"),
        (table(), "utf-16", "m.csv is read as UTF-16"),
        (table(), "utf-32", "m.csv is read as UTF-32"),
        (table(rows=[(path.replace("/", "\\"), label) for path, label in ROWS]), "utf-8", "12 paths are read with / for \\"),
        (table(rows=[(f"{path} ", f" {label}") for path, label in ROWS]), "utf-8", "12 paths are read without the blanks around them"),
        (table(rows=[(path.removesuffix(".png"), label) for path, label in ROWS]), "utf-8", "12 paths are matched to files by their names without ending"),
        (table("path, label", rows=[(path, f' "{label}"') for path, label in ROWS]), "utf-8", None),
        (table("Path,LABEL"), "utf-8", None),
        (table(rows=[*ROWS, ("", ""), ROWS[0]]), "utf-8", "1 lines name an image again, and are taken once"),
        (table(",path,label", rows=[(str(number), *row) for number, row in enumerate(ROWS)]), "utf-8", "columns without a name are not kept: 1"),
    ],
)  # fmt: skip
def test_dialects_with_one_meaning_are_read_and_told(folder, text, encoding, note):
    source = read(folder, text, encoding)
    assert list(zip(source.paths, (source.class_names[label] for label in source.labels), strict=True)) == ROWS
    assert [each for each in source.notes if "no split" not in each] == ([note] if note else [])


def test_an_apostrophe_before_a_formula_is_a_spreadsheets(folder):
    """As our own tables, such as groups.csv, have it."""
    source = read(folder, table("path,label,site", rows=[(path, f"'={label}", "'-1") for path, label in ROWS]))
    assert source.class_names == ("=rings", "=stripes") and set(source.columns["site"]) == {"-1"}
    assert read(folder, table(rows=[(path, f"'{label}") for path, label in ROWS])).class_names == ("'rings", "'stripes")


def test_dev_is_val(folder):
    source = read(folder, table("path,label,split", rows=[(*row, ("train", "dev")[row[0] > "s"]) for row in ROWS]))
    assert source.counts()["val"] == {"rings": 0, "stripes": 6} and "the split dev is read as val" in source.notes


def test_names_in_another_unicode_form_find_their_files(tmp_path):
    rows = [(f"Maß ü/ä{number}.png", "ab"[number % 2]) for number in range(8)]
    for seed, (path, _) in enumerate(rows):
        draw(tmp_path / unicodedata.normalize("NFD", path), seed)
    source = read(tmp_path, table(rows=[(unicodedata.normalize("NFC", path), label) for path, label in rows]))
    assert source.paths == tuple(unicodedata.normalize("NFD", path) for path, _ in rows) and source.file(0).exists()
    assert "8 paths are matched to files in another Unicode form (NFC or NFD)" in source.notes


def test_a_path_as_it_stands_comes_before_any_other_reading(tmp_path):
    for seed, name in enumerate((" a.png", "a.png", "b\\c.png", "b/c.png", "d", "d.png")):
        draw(tmp_path / "draft.png", seed)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / "draft.png").rename(tmp_path / name)
    source = read(tmp_path, table(rows=[(" a.png", "x"), ("b\\c.png", "y"), ("d", "y")]))
    assert source.paths == (" a.png", "b\\c.png", "d")


def test_other_headers_are_named_by_options_and_the_error_gives_the_line(folder):
    rows = [(label, path.split("/")[1], f"{label}/{path.split('/')[1][:-4]}") for path, label in ROWS]
    text = table("Class,Number,id", rows=rows)
    with pytest.raises(
        SourceError, match=r"path and label missing from Class, Number, id.*path_column='id' label_column='Class'$"
    ):
        read(folder, text)
    with pytest.raises(RequestError, match=r"path_column must be one of Class, Number, id, .*; got 'File'"):
        read(folder, text, path_column="File")
    source = read(folder, text, path_column="id", label_column="class", path_pattern="./{}.png")
    assert source.paths == tuple(path for path, _ in ROWS) and source.class_names == ("rings", "stripes")
    assert source.columns == {"Number": tuple(path.split("/")[1] for path, _ in ROWS)}
    with pytest.raises(RequestError, match="path_pattern must hold"):
        read(folder, text, path_column="id", label_column="Class", path_pattern="train/")
    with pytest.raises(RequestError, match="label_column must go with a CSV file"):
        load_source(str(folder), options=ListOptions(label_column="Class"))


@pytest.mark.parametrize(
    ("header", "further", "message"),
    [
        ("path", [], "Add what is missing as a column: label."),
        (
            "path,rings,stripes",
            [("1", "0"), ("0", "1")],
            "The columns rings, stripes mark one class each: put the name of each",
        ),
        ("file,number,kind", [("1", "a"), ("2", "b")], "--path-column file --label-column kind"),
        ("id,file,kind", [("x", "a"), ("y", "b")], "--path-column file --label-column kind"),
    ],
)
def test_missing_columns_are_looked_for_among_those_that_are_there(folder, header, further, message):
    names = header.split(",")
    at = next(place for place, name in enumerate(names) if name in ("path", "file"))
    lines = []
    for number, (path, label) in enumerate(ROWS):
        texts = list(further[label == "stripes"]) if further else []
        texts = [f"{each}{number}" if each in ("1", "2", "x", "y") and "kind" in names else each for each in texts]
        lines.append((*texts[:at], path, *texts[at:]))
    with on_command_line("program"), pytest.raises(SourceError, match=re.escape(message)):
        read(folder, table(header, rows=lines))


def test_a_column_that_holds_splits_under_another_name_is_told(folder):
    rows = [(*row, ("train", "Val", "test")[number % 3]) for number, row in enumerate(ROWS)]
    with on_command_line("program"):
        source = read(folder, table("path,label,subset", rows=rows))
    told = "the column subset holds splits, but is not taken for them. If these are the splits: --split-column subset"
    assert told in source.notes
    assert read(folder, table("path,label,subset", rows=rows), split_column="subset").drawn == ()
    rows = [(*row, ("train", "wagon")[number % 2]) for number, row in enumerate(ROWS)]
    assert not any(
        "splits" in each for each in read(folder, table("path,label,subset", rows=rows)).notes if "no split" not in each
    )


def test_tables_of_tabs_have_an_ending_of_their_own_and_other_files_a_remedy(folder):
    (folder / "m.tsv").write_text(table("path\tlabel", "\t"))
    assert len(load_source(str(folder / "m.tsv"))) == len(ROWS)
    for name, remedy in (("m.xlsx", "Of a table, save it as CSV"), ("m.zip", "Unpack it, and name the folder")):
        (folder / name).touch()
        with pytest.raises(SourceError, match=remedy):
            load_source(str(folder / name))


def test_a_first_line_that_is_no_header_is_not_taken_for_one(folder):
    for header in ("rings/0.png,rings", "rings/0,rings"):
        with pytest.raises(SourceError, match=r"Put a first line with these names above the others\.$"):
            read(folder, table(header))


def test_ids_in_a_folder_are_read_by_the_command_line_that_the_errors_give(tmp_path):
    rows = [(f"{number}x", "ab"[number % 2]) for number in range(8)]
    for number, (name, _) in enumerate(rows):
        draw(tmp_path / f"train/{name}.png", number)
    with on_command_line("program"):
        for header, line in (
            ("id,label", "--path-column id --path-pattern 'train/{}.png'"),
            ("path,label", "--path-pattern 'train/{}.png'"),
        ):
            with pytest.raises(SourceError) as caught:
                read(tmp_path, table(header, rows=rows))
            assert str(caught.value).endswith(line)
    source = read(tmp_path, table("id,label", rows=rows), path_column="id", path_pattern="train/{}.png")
    assert source.paths[0] == "train/0x.png" and len(source) == 8


def test_a_name_without_ending_that_means_two_files_is_an_error(folder):
    draw(folder / "rings/0.jpg", 0)
    with pytest.raises(SourceError, match=r"m.csv:2 must name one file; rings/0 can be rings/0.jpg or rings/0.png"):
        read(folder, table(rows=[(path.removesuffix(".png"), label) for path, label in ROWS]))


def test_a_text_too_long_for_a_name_is_no_file(folder):
    with pytest.raises(SourceError, match=r"names 1 absent file, .*line 14: xxx"):
        read(folder, table(rows=[*ROWS, ("x" * 300, "rings")]))
    with pytest.raises(SourceError, match="path and label missing from"):
        read(folder, table("x" * 300 + ",y"))


def test_labels_that_differ_in_case_or_blanks_only_are_warned_of(folder):
    rows = [(path, ("Two  words", "two words", "rings")[number % 3]) for number, (path, _) in enumerate(ROWS)]
    source = read(folder, table(rows=rows))
    assert len(source.class_names) == 3
    (warning,) = warn_of_like_names(source.class_names)
    assert warning.startswith("'Two  words' and 'two words' are 2 classes, ")


def test_few_numbers_as_classes_are_no_measures(folder):
    rows = [(path, str(number % 8)) for number, (path, _) in enumerate(ROWS)]
    assert len(read(folder, table(rows=rows)).class_names) == 8


def test_further_columns_are_kept_by_row_and_named(folder):
    rows = [(path, f"p{number}", label, f"{number}/ü") for number, (path, label) in enumerate(ROWS)]
    source = read(folder, table("path,patient,label,a/b", rows=[*reversed(rows), rows[0]]))
    assert source.columns == {
        "patient": tuple(f"p{number}" for number in range(12)),
        "a_b": tuple(f"{number}/ü" for number in range(12)),
    }
    assert "columns patient, a_b are kept" in source.notes and any(
        "a/b is kept as a_b" in note for note in source.notes
    )
    few = load_source(str(folder / "m.csv"), limit=4, allow_missing_classes=True)
    assert few.columns["patient"] == tuple(source.columns["patient"][source.paths.index(path)] for path in few.paths)


def test_lines_that_differ_in_a_further_column_only_are_taken_once_and_told(folder):
    rows = [(*row, str(number)) for number, row in enumerate([*ROWS, ROWS[0]])]
    source = read(folder, table("path,label,box", rows=rows))
    assert source.columns["box"][0] == "0"
    assert "1 lines name an image again, and are taken once, with the first one's box" in source.notes


def test_paths_give_columns_by_patterns(tmp_path, folder):
    column = {"number": r"(\d+)\.png", "kind": "rings|stripes"}
    given = {"number": tuple(str(n % 6) for n in range(12)), "kind": tuple(label for _, label in ROWS)}
    assert load_source(str(folder), allow_missing_classes=True, column=column).columns == given
    assert read(folder, table(), column=column).columns == given


@pytest.mark.parametrize(
    ("error", "column", "message"),
    [
        (SourceError, {"n": "[45]"}, r"column n must match every path; '\[45\]' does not match 8 of 12, such as rings/0.png, rings/1.png, rings/2.png\. "),
        (SourceError, {"n": "(x)?rings"}, "does not match any of 12"),
        (RequestError, {"n": "("}, r"column n must be a regular expression; got '\(' \(missing"),
        (RequestError, {"a/b": "x"}, "without '/'"),
        (RequestError, {"patient": "x"}, "patient is one of the source already"),
    ],
)  # fmt: skip
def test_patterns_that_do_not_fit(folder, error, column, message):
    with pytest.raises(error, match=message) as caught:
        read(folder, table("path,label,patient", rows=[(*row, "p") for row in ROWS]), column=column)
    assert type(caught.value) is error


def test_no_images_tells_what_was_left_out(tmp_path):
    for number in range(3):
        draw(tmp_path / f"class/{number}.png", number).rename(tmp_path / f"class/{number}")
        (tmp_path / f"class/{number}").write_text("no image")
    with pytest.raises(SourceError, match=r"holds no images .*; 3 without ending: no image\. Check: ls -R"):
        load_source(str(tmp_path))


def test_every_refusal_ends_in_a_remedy(folder):
    for text in ("", "a\n", "path,label\nrings/0.png,\n", table().replace("stripes/0", "none"), table("x,y")):
        with pytest.raises(CachedFeaturesError) as caught:
            read(folder, text)
        assert re.search(r"; .*\. \S|: .*\. \S", str(caught.value))


def add(folder, data, text, **options):
    (folder / "more").mkdir(exist_ok=True)
    (folder / "more/labels.csv").write_text(text)
    return load_source(str(folder / data), add=[folder / "more/labels.csv"], allow_missing_classes=True, **options)


def test_a_csv_adds_images_to_a_folder_and_to_a_csv(tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "unlabelled"
    for seed, (path, _) in enumerate(ROWS):
        draw(photos / path, seed)
    draw(photos / "loose.png", 50)
    draw(out / "a,1.png", 51)
    draw(out / "b.png", 52)
    (tmp_path / "link").symlink_to(photos)
    text = table(
        rows=[(f'"{out}/a,1.png"', "rings"), ("../photos/loose.png", "dots"), ("../link/rings/0.png", "rings")]
    )
    source = add(tmp_path, "photos", text)
    own = load_source(str(photos), allow_missing_classes=True)
    named = dict(zip(source.paths, (source.class_names[label] for label in source.labels), strict=True))
    assert named == dict(ROWS) | {f"{out}/a,1.png": "rings", "loose.png": "dots"}
    assert source.file(source.paths.index("loose.png")).is_file() and own.left_out and not source.left_out
    assert any("2 images added" in note and "1 of its lines name images" in note for note in source.notes)
    (tmp_path / "m.csv").write_text(table(rows=[(f"photos/{path}", label) for path, label in ROWS]))
    assert len(add(tmp_path, "m.csv", text)) == len(source)
    headed = add(tmp_path, "photos", "file,class\n../unlabelled/b.png,rings\n", options=ListOptions("file", "class"))
    assert f"{out}/b.png" in headed.paths
    assert add(tmp_path, "photos", table(rows=[(f"{out}/b.png", "rings")])).class_names == own.class_names
    for wrong, why in (
        (table(rows=[("../photos/rings/0.png", "stripes")]), "labels.csv:2 names rings/0.png, as stripes; it is there as rings"),
        (table("path,label,split", rows=[(f"{out}/b.png", "rings", "test")]), "must give no splits"),
        (table(rows=[("gone.png", "rings")]), "names 1 absent file"),
    ):  # fmt: skip
        with pytest.raises(SourceError, match=why):
            add(tmp_path, "photos", wrong)
    with pytest.raises(RequestError, match=r"add must be CSV files.*none.csv"):
        load_source(str(photos), add=["none.csv"])
    with pytest.raises(RequestError, match="add must go with a folder or a CSV file; got 'elpv'"):
        load_source("elpv", add=["none.csv"])


def test_added_images_are_of_train_where_splits_are_given_and_have_a_group(tmp_path):
    for seed, (path, _) in enumerate(ROWS):
        draw(tmp_path / path, seed)
    draw(tmp_path / "new.png", 50)
    splits = ("train", "train", "val", "val", "test", "test")
    rows = [(*row, splits[number % 6], f"p{number}") for number, row in enumerate(ROWS)]
    (tmp_path / "m.csv").write_text(table("path,label,split,patient", rows=rows))
    source = add(tmp_path, "m.csv", table(rows=[("../new.png", "rings")]))
    place = source.paths.index("new.png")
    assert source.splits[place] == 0 and source.columns["patient"][place] == "" and not source.drawn
    with pytest.raises(SourceError, match=r"labels.csv:2 must have a text in the column patient, which group"):
        add(tmp_path, "m.csv", table(rows=[("../new.png", "rings")]), group="patient")
    text = table("path,label,patient,site", rows=[("../new.png", "rings", "p0", "north")])
    source = add(tmp_path, "m.csv", text, group="patient")
    assert source.columns["site"][place] == "north" and source.columns["site"].count("") == 12


def test_patterns_of_columns_need_not_match_added_images_that_have_a_text_of_their_own(tmp_path):
    for seed, (path, _) in enumerate(ROWS):
        draw(tmp_path / "photos" / path, seed)
    draw(tmp_path / "rings/7.png", 50)
    draw(tmp_path / "other.png", 51)
    column, rows = {"number": r"([0-9]+)\.png"}, [("../rings/7.png", "rings", ""), ("../other.png", "rings", "mine")]
    both = add(tmp_path, "photos", table("path,label,number", rows=rows), column=column, group="number")
    texts = {Path(path).name: text for path, text in zip(both.paths, both.columns["number"], strict=True)}
    assert texts["7.png"] == "7" and texts["other.png"] == "mine" and texts["0.png"] == "0"
    rows = [(path, label) for path, label, _ in rows]
    with pytest.raises(
        SourceError, match=r"labels.csv:3 must have a text in the column number, which group names\. Fill"
    ):
        add(tmp_path, "photos", table(rows=rows), column=column, group="number")
    assert "" in add(tmp_path, "photos", table(rows=rows), column=column).columns["number"]
    with pytest.raises(RequestError, match=r"group must be one of number; got 'day'\. From paths: column="):
        add(tmp_path, "photos", table(rows=rows), column=column, group="day")


def test_a_few_added_labels_that_are_numbers_are_known_as_classes(tmp_path):
    for number in range(12):
        draw(tmp_path / f"photos/{number % 6}/{number}.png", number)
        draw(tmp_path / f"{number}.png", 50 + number)
    text = table(rows=[(f"../{number}.png", str(number)) for number in range(6)])
    assert len(add(tmp_path, "photos", text)) == 18
