//! The roofs of this machine, for `scripts/bench train --roofline`: how fast the products of a training step could be,
//! and how fast its tensors could go through memory.
//!
//! `roofline products FLOP` and `roofline memory BYTES BYTES-OF-A-STEP` read lines `BATCH PRECISION SECONDS` from the
//! standard input, as `train` does. For each they measure for about that long and print how many milliseconds `BATCH`
//! examples of so much each (and once the bytes of a step) would take, and 0.
//!
//! `roofline` prints both rates, of one thread and of all, and stops.
//!
//! Products: square f32 matrices that stay in the second cache, packed in panels, a tile of sums in the registers; one
//! product per thread, so that no thread waits. Memory: `a = b + 3 · c` over arrays of 64 MB per thread, 12 bytes a
//! number, as STREAM counts.

use std::hint::black_box;
use std::io::BufRead;
use std::sync::Barrier;
use std::time::Instant;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Rows and columns of the matrices.
const SIDE: usize = 384;
/// Rows of a panel of the right matrix: with its part of the left one it stays in the first cache.
const DEPTH: usize = 128;

/// Sums of a few rows and columns that stay in registers while they go through `DEPTH` products each.
#[derive(Clone, Copy)]
struct Tile {
    rows: usize,
    columns: usize,
    /// Adds the products of a panel of `rows` and one of `columns` to the tile at `out`, whose rows are `SIDE` apart.
    add: unsafe fn(left: *const f32, right: *const f32, out: *mut f32),
}

#[cfg(target_arch = "x86_64")]
macro_rules! tile {
    ($name:ident, $feature:literal, $lanes:literal, $rows:literal, $vectors:literal, $zero:ident, $splat:ident, $load:ident, $store:ident, $add:ident, $fma:ident) => {
        /// # Safety
        /// As [`plain`], and the processor must have the instructions.
        #[target_feature(enable = $feature)]
        unsafe fn $name(left: *const f32, right: *const f32, out: *mut f32) {
            use std::arch::x86_64::*;

            let mut sums = [[$zero(); $vectors]; $rows];
            for k in 0..DEPTH {
                let mut row = [$zero(); $vectors];
                for v in 0..$vectors {
                    // SAFETY: within a panel of `DEPTH` rows of so many vectors.
                    row[v] = unsafe { $load(right.add((k * $vectors + v) * $lanes)) };
                }
                for r in 0..$rows {
                    // SAFETY: within a panel of `DEPTH` columns of so many rows.
                    let x = $splat(unsafe { *left.add(k * $rows + r) });
                    for v in 0..$vectors {
                        sums[r][v] = $fma(x, row[v], sums[r][v]);
                    }
                }
            }
            for r in 0..$rows {
                for v in 0..$vectors {
                    // SAFETY: within the tile.
                    unsafe {
                        let at = out.add(r * SIDE + v * $lanes);
                        $store(at, $add($load(at), sums[r][v]));
                    }
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
tile!(avx512, "avx512f", 16, 8, 3, _mm512_setzero_ps, _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_add_ps, _mm512_fmadd_ps);
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
tile!(avx2, "avx2,fma", 8, 6, 2, _mm256_setzero_ps, _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_add_ps, _mm256_fmadd_ps);

/// What the compiler makes of plain Rust.
///
/// # Safety
/// Panels of `DEPTH` times 4 and 16 numbers, and a tile of them with rows `SIDE` apart.
unsafe fn plain(left: *const f32, right: *const f32, out: *mut f32) {
    let mut sums = [[0.0; 16]; 4];
    for k in 0..DEPTH {
        // SAFETY: within the panels.
        let (column, row) = unsafe { (&*left.add(k * 4).cast::<[f32; 4]>(), &*right.add(k * 16).cast::<[f32; 16]>()) };
        for (sums, x) in sums.iter_mut().zip(column) {
            for (sum, y) in sums.iter_mut().zip(row) {
                *sum += x * y;
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (c, sum) in sums.iter().enumerate() {
            // SAFETY: within the tile.
            unsafe { *out.add(r * SIDE + c) += sum };
        }
    }
}

/// The widest that this processor has.
fn tile() -> Tile {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            return Tile { rows: 8, columns: 48, add: avx512 };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Tile { rows: 6, columns: 16, add: avx2 };
        }
    }
    Tile { rows: 4, columns: 16, add: plain }
}

/// Square matrices, and room for their panels.
struct Product {
    tile: Tile,
    left: Vec<f32>,
    right: Vec<f32>,
    out: Vec<f32>,
    left_panels: Vec<f32>,
    right_panels: Vec<f32>,
}

impl Product {
    fn new() -> Self {
        let numbers = |step: f32| (0..SIDE * SIDE).map(|i| (i as f32 * step).sin()).collect::<Vec<_>>();
        let room = vec![0.0; SIDE * DEPTH];
        let (left, right, out) = (numbers(12.9898), numbers(78.233), vec![0.0; SIDE * SIDE]);
        Self { tile: tile(), left, right, out, left_panels: room.clone(), right_panels: room }
    }

    /// `out = left · right`.
    fn compute(&mut self) {
        let Tile { rows, columns, add } = self.tile;
        self.out.fill(0.0);
        for begin in (0..SIDE).step_by(DEPTH) {
            for (p, panel) in self.left_panels.chunks_exact_mut(rows * DEPTH).enumerate() {
                for r in 0..rows {
                    let row = &self.left[(p * rows + r) * SIDE + begin..][..DEPTH];
                    for (k, x) in row.iter().enumerate() {
                        panel[k * rows + r] = *x;
                    }
                }
            }
            for (p, panel) in self.right_panels.chunks_exact_mut(columns * DEPTH).enumerate() {
                for (k, row) in panel.chunks_exact_mut(columns).enumerate() {
                    row.copy_from_slice(&self.right[(begin + k) * SIDE + p * columns..][..columns]);
                }
            }
            for (j, right) in self.right_panels.chunks_exact(columns * DEPTH).enumerate() {
                for (i, left) in self.left_panels.chunks_exact(rows * DEPTH).enumerate() {
                    let out = &mut self.out[i * rows * SIDE + j * columns..][..(rows - 1) * SIDE + columns];
                    // SAFETY: panels of `DEPTH` by `rows` and `columns`, and the tile is within `out`; `tile` asked
                    // the processor.
                    unsafe { add(left.as_ptr(), right.as_ptr(), out.as_mut_ptr()) };
                }
            }
        }
    }

    /// That it is a product, at a few places.
    fn check(&self) -> Result<()> {
        for (i, j) in [(0, 0), (7, 383), (200, 100), (383, 47)] {
            let expected: f64 =
                (0..SIDE).map(|k| f64::from(self.left[i * SIDE + k]) * f64::from(self.right[k * SIDE + j])).sum();
            let found = f64::from(self.out[i * SIDE + j]);
            if (found - expected).abs() > 1e-4 * SIDE as f64 {
                return Err(format!("the product is {found} at {i}, {j} instead of {expected}").into());
            }
        }
        Ok(())
    }
}

/// How often per second so many threads together do what `new` returns, over about so many seconds.
fn rate<W: FnMut()>(threads: usize, seconds: f64, new: impl Fn() -> W + Sync) -> f64 {
    let barrier = Barrier::new(threads);
    let measure = || {
        let mut work = new();
        work(); // not timed: pages and caches
        barrier.wait();
        let (begin, mut count) = (Instant::now(), 0);
        while count < 3 || begin.elapsed().as_secs_f64() < seconds {
            work();
            count += 1;
        }
        f64::from(count) / begin.elapsed().as_secs_f64()
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(measure)).collect();
        all.into_iter().map(|thread| thread.join().expect("it only computes")).sum()
    })
}

/// Floating-point operations per second.
fn products(threads: usize, seconds: f64) -> f64 {
    let flop = 2.0 * (SIDE * SIDE * SIDE) as f64;
    flop * rate(threads, seconds, || {
        let mut product = Product::new();
        move || {
            product.compute();
            black_box(&mut product.out);
        }
    })
}

/// Bytes per second.
fn memory(threads: usize, seconds: f64) -> f64 {
    const COUNT: usize = 16 << 20;
    let bytes = 12.0 * COUNT as f64;
    bytes
        * rate(threads, seconds, || {
            let (mut a, b, c) = (vec![0f32; COUNT], vec![1f32; COUNT], vec![2f32; COUNT]);
            move || {
                for ((a, b), c) in a.iter_mut().zip(&b).zip(&c) {
                    *a = b + 3.0 * c;
                }
                black_box(&mut a);
            }
        })
}

/// As many threads as the crate's own pool.
fn threads() -> usize {
    let wanted = std::env::var("RAYON_NUM_THREADS").ok().and_then(|text| text.parse().ok()).filter(|&count| count > 0);
    wanted.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

fn number(text: &str) -> Result<f64> {
    text.parse().map_err(|_| format!("expected a number, got {text}").into())
}

fn serve(rate: fn(usize, f64) -> f64, each: f64, once: f64) -> Result<()> {
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let [batch, _, seconds] = words[..] else {
            return Err(format!("expected BATCH PRECISION SECONDS, got {line}").into());
        };
        let seconds = Some(number(seconds)?).filter(|&seconds| seconds > 0.0).unwrap_or(0.3);
        println!("{} 0", (number(batch)? * each + once) * 1e3 / rate(threads(), seconds));
    }
    Ok(())
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut product = Product::new();
    product.compute();
    product.check()?;
    match words[..] {
        ["products", flop] => serve(products, number(flop)?, 0.0),
        ["memory", bytes, once] => serve(memory, number(bytes)?, number(once)?),
        [] => {
            let all = threads();
            println!(
                "products: {:.0} GFLOP/s with one thread, {:.0} with {all}; memory: {:.1} GB/s with one, {:.1} with {all}",
                products(1, 0.5) / 1e9,
                products(all, 0.5) / 1e9,
                memory(1, 0.5) / 1e9,
                memory(all, 0.5) / 1e9,
            );
            Ok(())
        }
        _ => Err(format!(
            "expected nothing, products FLOP, or memory BYTES BYTES-OF-A-STEP, got {}",
            arguments.join(" ")
        )
        .into()),
    }
}
