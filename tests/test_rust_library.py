"""The short copy of Rust's library, from which the kernel tells the types of variables."""

import json
import re

import pytest
from conftest import SETUP
from course import build_folder, environment, execute, paths, rust_library

CODE = r'''
//! What this is.
#![stable(feature = "a", since = "1")]
/* outer /* inner */ still a comment " */
/// It's "one".
#[doc = "]"] // gone
#[cfg(not(any(test)))]
#[stable(feature = "x", since = "1.0")]
#[unstable(feature = "y", issue = "1")]
pub fn first<'a>(text: &'a str) -> (&'a str, char) {
    let quoted = "// no comment \" {";
    let raw = r#"/* no "comment" } "#;
    let byte = b'"';
    (text, '\'')
}
forward! { impl Add for f32, #[stable(feature = "z", since = "2")] #[unstable(feature = "w", issue = "2")] }
'''
BARE = r'''
#[cfg(not(any(test)))]

#[unstable(feature = "y", issue = "1")]
pub fn first<'a>(text: &'a str) -> (&'a str, char) {
    let quoted = "// no comment \" {";
    let raw = r#"/* no "comment" } "#;
    let byte = b'"';
    (text, '\'')
}
forward! { impl Add for f32, #[stable(feature = "z", since = "2")] #[unstable(feature = "w", issue = "2")] }
'''


def words(text):
    return text.split()


def test_comments_and_attributes_before_items_go():
    assert words(rust_library.bare(CODE)) == words(BARE)
    # What is left of nothing but comments, and of a comment that never ends.
    assert words(rust_library.bare("// a\n/* b /* c */ d */ /* e")) == []


@pytest.mark.parametrize(
    ("code", "left"),
    [
        ("fn f(a: [u8; { 1 + 1 }]) -> u8 { if a[0] == b'}' { 1 } else { 2 } } fn g() { () }", "fn f(a: [u8; { 1 + 1 }]) -> u8 { loop {} } fn g() { loop {} }"),
        ("fn f<T>(t: T) -> X<{ N }> where T: Fn(u8) -> u8, { t(1) }", "fn f<T>(t: T) -> X<{ N }> where T: Fn(u8) -> u8, { loop {} }"),
        ("trait T { fn a(&self); fn b(&self) { \"{\"; } }", "trait T { fn a(&self); fn b(&self) { loop {} } }"),
        ("pub const fn bits() -> u32 { 8 } const unsafe fn g() -> u8 { 1 }", "pub const fn bits() -> u32 { 8 } const unsafe fn g() -> u8 { 1 }"),
        ("fn items() -> impl Iterator<Item = u8> { [1].into_iter() }", "fn items() -> impl Iterator<Item = u8> { [1].into_iter() }"),
        ("fn f(x: impl Fn()) { x() }", "fn f(x: impl Fn()) { loop {} }"),
        ("macro_rules! m { ($n:ident) => { fn $n() { 1; } } } const F: fn(u8) -> u8 = g;", "macro_rules! m { ($n:ident) => { fn $n() { loop {} } } } const F: fn(u8) -> u8 = g;"),
        ("type F = unsafe extern \"C\" fn(u8); fn f(#[cfg(a)] x: u8) { x; }", "type F = unsafe extern \"C\" fn(u8); fn f(#[cfg(a)] x: u8) { loop {} }"),
    ],
)
def test_functions_keep_their_types_and_lose_what_they_do(code, left):
    assert rust_library.hollow(code) == left


def test_modules_of_intrinsics_stay_empty():
    code = '#[path = "../../stdarch/mod.rs"]\n#[allow(\n    unused\n)]\nmod core_arch;\n#[path = "num/f32.rs"]\npub mod f32;\n'
    assert words(rust_library.without_modules(code)) == words('#[allow( unused )] mod core_arch { pub mod arch {} } #[path = "num/f32.rs"] pub mod f32;')


@pytest.fixture
def toolchain(tmp_path, monkeypatch):
    """A compiler's folder with a small library, and a cache of its own."""
    sysroot = tmp_path / "toolchain"
    sources = sysroot / rust_library.SOURCES
    for name in (*rust_library.READ, "test"):
        (sources / name / "src" / "inner").mkdir(parents=True)
        (sources / name / "Cargo.toml").write_text(f'[package]\nname = "{name}"\n')
        (sources / name / "src" / "lib.rs").write_text('// Gone.\n#[path = "../../stdarch/mod.rs"]\nmod core_arch;\nmod inner;\n')
        (sources / name / "src" / "inner" / "mod.rs").write_text("fn f() { g() }\n")
    (sysroot / "bin").mkdir()
    (sysroot / "bin" / "rustc").write_text("compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(rust_library.say, "ask", lambda command: str(sysroot))
    monkeypatch.setattr(build_folder, "compiler", lambda: "rustc 1")
    return sysroot


def test_the_copy_is_a_whole_toolchain(toolchain):
    root = rust_library.ensure()
    assert (root / "bin" / "rustc").read_text() == "compiler"
    core, hidden = root / rust_library.SOURCES / "core", root / rust_library.SOURCES / "test"
    assert words((core / "src" / "lib.rs").read_text()) == words("mod core_arch { pub mod arch {} } mod inner;")
    assert (core / "src" / "inner" / "mod.rs").read_text() == "fn f() { loop {} }\n"
    assert "core" in (core / "Cargo.toml").read_text()
    assert hidden.is_symlink() and "g()" in (hidden / "src" / "inner" / "mod.rs").read_text()
    marked = root / "mark"
    marked.touch()
    assert rust_library.ensure() == root and marked.exists()


def test_another_compiler_gets_another_copy_and_the_old_one_goes(toolchain, monkeypatch):
    old = rust_library.ensure()
    monkeypatch.setattr(build_folder, "compiler", lambda: "rustc 2")
    new = rust_library.ensure()
    assert new != old and new.exists() and list(new.parent.iterdir()) == [new]


def test_without_the_librarys_source_there_is_none(toolchain, monkeypatch, capsys):
    (toolchain / rust_library.SOURCES / "core").rename(toolchain / "elsewhere")
    monkeypatch.setattr(rust_library.shutil, "which", lambda name: "rustup")

    def fails(*arguments, **options):
        raise rust_library.say.Failure("no network")

    monkeypatch.setattr(rust_library.say, "run", fails)
    assert rust_library.ensure() is None
    assert "it could not be had (no network)" in capsys.readouterr().err


# One variable of every kind that a lesson, or a learner, may have: numbers and what is done with them, text,
# collections and their iterators, closures' results, files, time, threads, shared and dynamic values.
VARIABLES = """\
use std::{borrow::Cow, cell::{Cell, RefCell}, cmp::Reverse, collections::*, num::*, path::*, rc::Rc, sync::*, time::*};
let a1 = 1u8.wrapping_add(2); let a2 = &3i32 + &4; let a3 = 7usize.pow(2).checked_rem(3); let a4 = -2.5f32; let a5 = a4.abs().sqrt().mul_add(2., 1.);
let a6 = 5i64.leading_zeros() + u32::BITS; let a7 = [0u8; u32::BITS as usize / 8]; let a8 = 1.0f64.max(2.0).total_cmp(&3.0); let a9 = !0u16 >> 3; let a10 = 300u32 as u8;
let b1 = "a b c".split(' ').map(str::to_owned).collect::<Vec<_>>(); let b2 = b1.join("-"); let b3 = b2.chars().rev().collect::<String>(); let b4 = b3.find('a');
let b5 = "12".parse::<i32>(); let b6 = format!("{b4:?}"); let b7 = b6.as_bytes().to_vec(); let b8 = 'x'.to_ascii_uppercase(); let b9 = Cow::Borrowed("t"); let b10 = String::from_utf8_lossy(b"x").into_owned();
let c1 = vec![3, 1, 2]; let c2 = c1.iter().copied().filter(|v| *v > 1).max(); let c3 = c1.iter().zip(&b1).map(|(n, s)| (*n, s.len())).collect::<HashMap<_, _>>();
let c4 = c1.chunks(2).map(|c| c.iter().sum::<i32>()).collect::<Vec<_>>(); let c5 = c1.windows(2).fold(0.0, |s, w| s + (w[0] - w[1]) as f64); let (c6, c7): (Vec<i32>, Vec<i32>) = c1.iter().partition(|v| **v > 1);
let c8 = c3.get(&3).copied().unwrap_or(0usize); let c9 = [1, 2, 3].map(|v| v as f32); let c10 = c9.iter().enumerate().min_by(|x, y| x.1.total_cmp(y.1)).map(|p| p.0);
let d1 = (0..10).step_by(3).collect::<BTreeSet<_>>(); let d2 = d1.first().cloned(); let d3 = (1..=4).product::<u64>(); let d4 = BTreeMap::from([("k", vec![1.5])]); let d5 = VecDeque::from(vec![Some(1)]);
let d6 = BinaryHeap::from(vec![Reverse(3)]); let d7 = d4.values().flatten().count(); let d8 = std::iter::repeat(2).take(3).collect::<Box<[i32]>>(); let d9 = 0..5; let d10 = c1.first().zip(c1.last()).map(|(x, y)| x - y);
let e1 = Rc::new(RefCell::new(1)); let e2 = e1.borrow().clone(); let e3 = Arc::new(Mutex::new(vec![1u8])); let e4 = e3.lock().unwrap().len(); let e5 = Cell::new(3).take(); let e6 = NonZeroU32::new(3);
let e7 = Duration::from_secs(2) / 3; let e8 = Instant::now().elapsed().as_secs_f64(); let e9 = Path::new("a/b").join("c"); let e10 = e9.extension().map(|e| e.to_string_lossy().into_owned());
let f1 = std::thread::spawn(|| 3u16).join().unwrap(); let f2 = { let (s, r) = mpsc::channel(); s.send(1i8).unwrap(); r.recv() }; let f3: Box<dyn Fn(i32) -> i32> = Box::new(|v| v + 1); let f4 = f3(1);
let f5 = std::fs::metadata(".").map(|m| m.is_dir()).ok(); let f6 = "1 2".split_once(' ').ok_or("none").map(|p| p.0.len()); let f7 = std::mem::size_of::<u64>(); let f8 = Some(3).and_then(|v| u8::try_from(v).ok());
let g1 = Tensor::zeros((2, 3), DType::F32, &Device::Cpu)?; let g2 = g1.dims().to_vec(); let g3 = g1.sum_all()?.to_scalar::<f32>()?; let g4 = g1.to_vec2::<f32>()?.concat(); let g5 = (&g1 + 1.0)?; let g6 = Wrapping(3u8) + Wrapping(4);"""


def types(folder, kernels, name, library):
    """The variables and their types as a kernel tells them that reads this library."""
    specifications = kernels / name
    (specifications / paths.KERNEL_NAME).mkdir(parents=True)
    variables = {"EVCXR_TMPDIR": str(build_folder.BuildFolder().copy()), "CANDLE_COURSE_LIBRARY": str(library)}
    specification = dict(environment.kernel_specification("python"), argv=[str(environment.evcxr.find()), "--control_file", "{connection_file}"], env=dict(build_folder.run_environment(), **variables))
    (specifications / paths.KERNEL_NAME / "kernel.json").write_text(json.dumps(specification))
    cells = [(cell, ()) for cell in (SETUP, VARIABLES, ":vars")]
    report = execute.run(name, cells, folder, kernel=execute.manager([str(specifications)]))
    assert report.failure == "", report.failure
    shown = json.dumps(report.outputs[-1])
    return dict(re.findall(r"\b([a-g]\d+)\b[^<>A-Za-z]*?(?:</?t[dr]>)+([^\n]*?)</td>", shown))


def test_the_kernel_tells_the_same_types_from_it_as_from_the_whole_library(notebook_folder, tmp_path):
    short = rust_library.ensure()
    assert short is not None
    told = types(notebook_folder, tmp_path, "short", short)
    assert set(told) == set(re.findall(r"let ([a-g]\d+)", VARIABLES)) | {"c6", "c7"}
    assert told == types(notebook_folder, tmp_path, "whole", "")
