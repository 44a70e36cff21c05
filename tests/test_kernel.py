"""The project's kernel, driven as `scripts/run` drives it."""

import threading

import pytest
from conftest import SETUP
from course import execute

# d/dw Σ (3w)² = 18w = 36 at w = 2. A second copy of candle's tensor counter makes the tensors of
# the second cell collide with `w`, and the gradient becomes 60 without any error.
CANARY = [
    "let w = Var::new(&[2f32], &Device::Cpu)?;",
    "let a = Tensor::new(&[3f32], &Device::Cpu)?;\nlet gradients = (w.as_tensor() * &a)?.sqr()?.sum_all()?.backward()?;",
    'println!("gradient {:?}", gradients.get(&w).unwrap().to_vec1::<f32>()?);',
]


def run(folder, *cells, name="test"):
    return execute.run(name, [(cell, ()) if isinstance(cell, str) else cell for cell in (SETUP, *cells)], folder)


def written(report):
    return "".join(output["text"] for cell in report.outputs for output in cell if output["output_type"] == "stream")


def test_gradients_are_right_across_cells(notebook_folder):
    report = run(notebook_folder, *CANARY)
    assert report.failure == ""
    assert "gradient [36.0]" in written(report)


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
