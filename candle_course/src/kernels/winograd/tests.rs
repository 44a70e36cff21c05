//! Against the products of [`conv`](crate::kernels::conv), which follow the definition.

use super::tiles::{MOST_TILES, Tiles};
use super::*;
use crate::kernels::conv::{by_points, forward_general, transposed_general};
use crate::kernels::conv_backward::backward_weight_general;

/// Numbers in −1..1 that look random.
fn numbers<T: Element>(len: usize, seed: u64) -> Vec<T> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        T::of((state >> 11) as f64 / (1u64 << 52) as f64 - 1.0)
    };
    (0..len).map(|_| next()).collect()
}

fn geometry(batch: usize, channels: (usize, usize), input: (usize, usize), padding: (usize, usize)) -> Geometry {
    Geometry {
        batch,
        in_channels: channels.0,
        out_channels: channels.1,
        groups: 1,
        input,
        kernel: (3, 3),
        stride: (1, 1),
        padding,
        dilation: (1, 1),
        output: (input.0 + 2 * padding.0 - 2, input.1 + 2 * padding.1 - 2),
    }
}

/// The adjoint, as in `conv`.
fn adjoint(g: &Geometry) -> Geometry {
    Geometry {
        in_channels: g.out_channels,
        out_channels: g.in_channels,
        input: g.output,
        output: g.input,
        padding: (2 - g.padding.0, 2 - g.padding.1),
        ..*g
    }
}

/// The root of the mean square of the differences, and of the expected numbers.
fn difference<T: Element>(found: &[T], expected: &[T]) -> (f64, f64) {
    assert_eq!(found.len(), expected.len());
    let root = |sum: f64| (sum / expected.len() as f64).sqrt();
    let off = found.iter().zip(expected).map(|(a, b)| (a.wide() - b.wide()).powi(2)).sum();
    (root(off), root(expected.iter().map(|b| b.wide().powi(2)).sum()))
}

fn follows_the_products<T: Element>(g: &Geometry, bound: f64) {
    let x = numbers::<T>(g.batch * g.image(), 1);
    let weight = numbers::<T>(g.out_channels * g.depth(), 2);
    let dy = numbers::<T>(g.batch * g.out_channels * g.pixels(), 3);
    let (bias, in_bias) = (numbers::<T>(g.out_channels, 4), numbers::<T>(g.in_channels, 5));
    let check = |what: &str, found: Vec<T>, expected: Vec<T>| {
        let (off, size) = difference(&found, &expected);
        assert!(off <= bound * size, "{what} of {g:?}: {off:e} off, of {size:e}");
    };
    let filters = Filters::new(g, &weight);
    check("output", by_points(g, &x, filters, None, false), forward_general(g, &x, &weight, None, false));
    let (ours, theirs) =
        (by_points(g, &x, filters, Some(&bias), true), forward_general(g, &x, &weight, Some(&bias), true));
    check("output with bias and ReLU", ours, theirs);
    let adjoint = adjoint(g);
    let filters = Filters::adjoint(&adjoint, &weight);
    let ours = by_points(&adjoint, &dy, filters, Some(&in_bias), false);
    check("transposed", ours, transposed_general(g, &dy, &weight, Some(&in_bias)));
    let (dw, db) = backward_weight(g, &x, &dy);
    let (expected, expected_bias) = backward_weight_general(g, &x, dy[..].into(), true);
    check("gradient of the weight", dw, expected);
    check("gradient of the bias", db, expected_bias.unwrap());
}

/// Images that are whole tiles and images that are not, less than a vector of pixels, chunks of rows and
/// of images, channels that fill blocks and that do not, all paddings.
#[test]
fn outputs_and_gradients_are_those_of_the_products() {
    let (lanes, block) = f32::dispatch(Sizes);
    let channels = [(lanes, lanes), (lanes + 1, block + 2), (block + lanes, 2 * block), (2 * block + 3, lanes + 5)];
    for (i, input) in
        [(4, 4), (3, 3), (9, 10), (16, 16), (1, 7), (13, 5), (8, 40), (2, 2), (34, 32)].into_iter().enumerate()
    {
        for (j, channels) in channels.into_iter().enumerate() {
            let padding = if input.0 < 3 { (1, (i + j) % 3) } else { ((i + j) % 3, (i * j) % 3) };
            let padding = if input.1 < 3 { (padding.0, 1) } else { padding };
            let g = geometry([1, 3, 7][(i + 2 * j) % 3], channels, input, padding);
            follows_the_products::<f32>(&g, 2e-6);
            if channels.0 < 40 && i % 2 == 0 {
                let g = Geometry { in_channels: 9, out_channels: 10, ..g };
                follows_the_products::<f64>(&g, 1e-14);
            }
        }
    }
}

/// Two to three times the error of sums in f32 of as many products; the usual points give four.
#[test]
fn the_error_is_about_that_of_direct_sums() {
    for channels in [16, 64, 128] {
        let g = geometry(2, (channels, 32), (16, 16), (1, 1));
        let x = numbers::<f32>(g.batch * g.image(), 6);
        let weight = numbers::<f32>(g.out_channels * g.depth(), 7);
        let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        let exact = forward_general(&g, &wide(&x), &wide(&weight), None, false);
        let off = |found: &[f32]| difference(&wide(found), &exact);
        let (ours, size) = off(&by_points(&g, &x, Filters::new(&g, &weight), None, false));
        let (direct, _) = off(&forward_general(&g, &x, &weight, None, false));
        assert!(ours < 3.0 * direct && ours < 1.5e-6 * size, "{channels}: {ours:e}, direct {direct:e}, of {size:e}");
    }
}

/// What it saves must exceed what the transformations cost: few channels and few tiles do not.
#[test]
fn it_is_used_where_it_pays() {
    let common = geometry(64, (64, 64), (16, 16), (1, 1));
    assert!(pays::<f32>(&common) && pays::<f64>(&common));
    // What PyTorch's values are stored of.
    for (batch, channels, input, padding) in
        [(2, (17, 18), (16, 11), 1), (2, (16, 33), (12, 8), 2), (4, (20, 16), (12, 10), 0), (2, (17, 18), (12, 11), 1)]
    {
        let g = geometry(batch, channels, input, (padding, padding));
        assert!(pays::<f32>(&g) && pays::<f32>(&adjoint(&g)), "{g:?}");
    }
    for g in [
        Geometry { in_channels: 3, ..common },
        Geometry { out_channels: 5, ..common },
        Geometry { batch: 1, input: (4, 4), output: (4, 4), ..common },
        Geometry { groups: 2, ..common },
        Geometry { stride: (2, 1), output: (8, 16), ..common },
        Geometry { dilation: (2, 2), output: (14, 14), ..common },
        Geometry { kernel: (5, 5), output: (14, 14), ..common },
        // The input of a transposed convolution with output padding reaches further than the windows.
        Geometry { output: (15, 16), ..common },
        geometry(64, (64, 64), (3, 3), (0, 0)),
    ] {
        assert!(!pays::<f32>(&g), "{g:?}");
    }
    // Points that were made once are only read, but from memory if they are many.
    let prepared = geometry(1, (128, 128), (8, 8), (1, 1));
    assert!(!pays::<f32>(&prepared) && pays_prepared::<f32>(&prepared));
    assert!(!pays_prepared::<f32>(&geometry(1, (256, 256), (8, 8), (1, 1))));
}

#[test]
fn every_tile_is_in_one_chunk() {
    for (batch, output) in [(1, (4, 4)), (1, (64, 64)), (5, (9, 33)), (64, (8, 8)), (3, (2, 1000)), (64, (32, 32))] {
        let g = geometry(batch, (16, 16), output, (1, 1));
        let tiles = Tiles::new(&g);
        let mut seen = vec![0; batch * tiles.rows];
        for index in 0..tiles.chunks() {
            let chunk = tiles.chunk(index);
            assert!((1..=tiles.most()).contains(&tiles.count(&chunk)), "{g:?}");
            for image in chunk.images.clone() {
                chunk.rows.clone().for_each(|row| seen[image * tiles.rows + row] += 1);
            }
        }
        assert!(seen.iter().all(|&times| times == 1), "{g:?}: {seen:?}");
        assert!(tiles.most() <= MOST_TILES.max(tiles.columns), "{g:?}: {}", tiles.most());
    }
}
