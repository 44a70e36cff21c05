"""The project's kernel, driven as `scripts/run` drives it."""

import json
import threading

import pytest
from conftest import SETUP
from course import build_folder, evcxr, execute, paths

# d/dw Σ (3w)² = 18w = 36 at w = 2. A second copy of candle's tensor counter makes the tensors of
# the second cell collide with `w`, and the gradient becomes 60 without any error.
CANARY = [
    "let w = Var::new(&[2f32], &Device::Cpu)?;",
    "let a = Tensor::new(&[3f32], &Device::Cpu)?;\nlet gradients = (w.as_tensor() * &a)?.sqr()?.sum_all()?.backward()?;",
    'println!("gradient {:?}", gradients.get(&w).unwrap().to_vec1::<f32>()?);',
]


def run(folder, *cells, name="test", kernel=None):
    return execute.run(name, [(cell, ()) if isinstance(cell, str) else cell for cell in (SETUP, *cells)], folder, kernel=kernel)


def written(report):
    return "".join(output["text"] for cell in report.outputs for output in cell if output["output_type"] == "stream")


def test_gradients_are_right_across_cells(notebook_folder):
    report = run(notebook_folder, *CANARY)
    assert report.failure == ""
    assert "gradient [36.0]" in written(report)


STATIC = """\
[package]
name = "candle_course_notebook"
version = "0.1.0"
edition = "2024"

[lib]
path = "{crate}/notebook/src/lib.rs"
crate-type = ["rlib"]

[dependencies]
candle_course = {{ path = "{crate}" }}
"""


@pytest.fixture
def static_crate(tmp_path):
    """The same crate, to be linked into each cell by itself; the folder of its notebooks, and a kernel."""
    package, notebooks, kernels = (tmp_path / name for name in ("candle_course/notebook", "notebooks/en", "kernels"))
    for folder in (package, notebooks, kernels / paths.KERNEL_NAME):
        folder.mkdir(parents=True)
    assert 'crate-type = ["dylib", "rlib"]' in (paths.CRATE / "notebook" / "Cargo.toml").read_text()
    (package / "Cargo.toml").write_text(STATIC.format(crate=paths.CRATE))
    specification = {
        "argv": [str(evcxr.find()), "--control_file", "{connection_file}"],
        "display_name": "Rust",
        "language": "rust",
        "interrupt_mode": "message",
        "env": dict(build_folder.run_environment(), EVCXR_TMPDIR=str(build_folder.BuildFolder().copy())),
    }
    (kernels / paths.KERNEL_NAME / "kernel.json").write_text(json.dumps(specification))
    return notebooks, execute.manager([str(kernels)])


def test_linked_statically_the_same_crate_gives_wrong_gradients(static_crate):
    """Why notebooks get a dynamic library. If this fails, evcxr or candle mended it."""
    folder, kernel = static_crate
    report = run(folder, *CANARY, kernel=kernel)
    assert report.failure == ""
    assert "gradient [60.0]" in written(report)


def test_cells_are_compiled_quickly_and_the_crate_for_speed(notebook_folder):
    manifest = 'println!("{}", std::fs::read_to_string(std::env::var("EVCXR_TMPDIR")? + "/Cargo.toml")?);'
    report = run(notebook_folder, manifest, ":opt 2", manifest)
    assert report.failure == ""
    assert [line for line in written(report).splitlines() if line.startswith("opt-level")] == ["opt-level = 0", "opt-level = 2"]


def test_two_notebooks_run_at_the_same_time(notebook_folder):
    reports = {}

    def notebook(number):
        cells = [f"let mine = {number}i64;", "let doubled = mine * 2;", 'println!("{mine} {doubled}");']
        reports[number] = run(notebook_folder, *cells, name=str(number))

    threads = [threading.Thread(target=notebook, args=(number,)) for number in (11, 22)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: (report.failure, written(report)) for number, report in reports.items()} == {11: ("", "11 22\n"), 22: ("", "22 44\n")}


MODEL = """
let device = Device::Cpu;
let pixels: Vec<f32> = (0..64 * 784).map(|i| (i as f32 * 12.9898).sin()).collect();
let images = Tensor::from_vec(pixels, (64, 1, 28, 28), &device)?;
let labels = Tensor::from_vec((0..64u32).map(|i| i * 7 % 10).collect::<Vec<_>>(), 64, &device)?;
let parameters = Parameters::new(42, &device);
let model = Sequential::new()
    .add(Conv2d::builder(1, 8, 3).padding(1).build(&parameters.at("conv"))?)
    .add(Activation::Relu)
    .add(MaxPool2d::new(2)?)
    .add(Flatten)
    .add(Dropout::new(0.5, &parameters.at("dropout"))?)
    .add(Linear::new(8 * 14 * 14, 10, &parameters.at("linear"))?);
"""

STEPS = """
let mut optimizer = AdamW::new(&parameters)?;
let mut losses = Vec::new();
for _ in 0..20 {
    let loss = cross_entropy(&model.forward_t(&images, true)?, &labels)?;
    optimizer.step(&loss.backward()?, 0.01)?;
    losses.push(format!("{:08x}", loss.to_scalar::<f32>()?.to_bits()));
}
println!("losses {}", losses.join(" "));
"""


def test_the_same_seed_gives_the_same_losses_to_the_last_bit(notebook_folder):
    losses = []
    for _ in range(2):
        report = run(notebook_folder, MODEL, STEPS)
        assert report.failure == ""
        losses.append(written(report))
    assert losses[0].startswith("losses ") and len(set(losses[0].split())) > 15
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("let x: i32 = no_such_name;", "cannot find value `no_such_name`"),
        ('panic!("the cause");', "the cause"),
        ('Tensor::new(&[1f32, 2.], &Device::Cpu)?.reshape((3, 1))?;', "Shape mismatch"),
    ],
    ids=["compile error", "panic", "question mark"],
)
def test_a_failing_cell_stops_the_run_and_is_named(notebook_folder, cell, message):
    report = run(notebook_folder, cell, 'println!("not reached");', name="3.9-broken")
    assert report.failure.startswith("3.9-broken: code cell 2 of 3 failed")
    assert cell in report.failure
    assert message in report.failure
    assert len(report.outputs) == 2
    with pytest.raises(execute.say.Failure, match="3.9-broken"):
        execute.failing([report])
    assert "FAILED" in execute.table([report])


def test_a_cell_may_be_meant_to_fail(notebook_folder):
    report = run(notebook_folder, ("let x: i32 = no_such_name;", ["raises-exception"]), 'println!("reached");')
    assert report.failure == ""
    assert "reached" in written(report)
