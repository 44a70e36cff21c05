//! From SVG to PNG.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb};

use crate::error::{Error, ErrorKind, Result};

fn fonts() -> Arc<fontdb::Database> {
    static FONTS: OnceLock<Arc<fontdb::Database>> = OnceLock::new();
    FONTS
        .get_or_init(|| {
            let mut fonts = fontdb::Database::new();
            fonts.load_font_data(include_bytes!("fonts/PlotSans-Regular.ttf").to_vec());
            fonts.load_font_data(include_bytes!("fonts/PlotSans-Bold.ttf").to_vec());
            fonts.load_font_data(include_bytes!("fonts/PlotSymbols.ttf").to_vec());
            fonts.set_sans_serif_family("Plot Sans");
            Arc::new(fonts)
        })
        .clone()
}

/// The SVG as opaque pixels with their width and height, `scale` pixels to one of the SVG.
pub(super) fn pixels(svg: &str, scale: f64) -> Result<(Vec<[u8; 3]>, usize, usize)> {
    let failed = |what: String| Error::new(ErrorKind::Display, format!("cannot rasterise the figure: {what}"));
    let options = Options { fontdb: fonts(), font_family: "Plot Sans".into(), ..Options::default() };
    let tree = Tree::from_str(svg, &options).map_err(|error| failed(error.to_string()))?;
    let size = tree.size();
    let (width, height) =
        ((f64::from(size.width()) * scale).round() as u32, (f64::from(size.height()) * scale).round() as u32);
    let mut pixmap = Pixmap::new(width, height).ok_or_else(|| failed(format!("{width}×{height} pixels")))?;
    pixmap.fill(resvg::tiny_skia::Color::WHITE); // the last row and column may be covered in part only
    resvg::render(&tree, Transform::from_scale(scale as f32, scale as f32), &mut pixmap.as_mut());
    let pixels = pixmap.pixels().iter().map(|p| [p.red(), p.green(), p.blue()]).collect();
    Ok((pixels, width as usize, height as usize))
}

/// The SVG as a PNG file: in 256 colours where that shows no difference, in full colour otherwise.
pub(super) fn png(svg: &str, scale: f64) -> Result<Vec<u8>> {
    let (pixels, width, height) = pixels(svg, scale)?;
    match reduce(&pixels) {
        Some((palette, indices)) => encode(width, height, png::ColorType::Indexed, Some(palette), &indices),
        None => encode(width, height, png::ColorType::Rgb, None, pixels.as_flattened()),
    }
}

/// A PNG file of raw samples: one byte a pixel for grey, three for RGB.
pub(super) fn encode(
    width: usize,
    height: usize,
    color: png::ColorType,
    palette: Option<Vec<u8>>,
    samples: &[u8],
) -> Result<Vec<u8>> {
    let failed = |error: png::EncodingError| Error::new(ErrorKind::Display, format!("cannot write the PNG: {error}"));
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width as u32, height as u32);
    encoder.set_color(color);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::High);
    if let Some(palette) = palette {
        encoder.set_palette(palette);
        encoder.set_filter(png::Filter::NoFilter);
    }
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(samples).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(file)
}

/// The pixels in at most 256 colours: exact when there are no more, else the commonest and one of
/// each cube of near colours; `None` when that would show (photographs).
fn reduce(pixels: &[[u8; 3]]) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut counts: HashMap<[u8; 3], usize> = HashMap::new();
    for &pixel in pixels {
        *counts.entry(pixel).or_default() += 1;
    }
    let mut colors: Vec<([u8; 3], usize)> = counts.into_iter().collect();
    colors.sort_by_key(|&(color, count)| (std::cmp::Reverse(count), color));
    let mut palette: Vec<[u8; 3]> = Vec::new();
    if colors.len() <= 256 {
        palette = colors.iter().map(|&(color, _)| color).collect();
    } else {
        // The commonest as they are, for areas of many near shades; then one of each cube.
        palette.extend(colors[..128].iter().map(|&(color, _)| color));
        let mut seen: std::collections::HashSet<_> = palette.iter().map(|color| color.map(|c| c >> 4)).collect();
        for &(color, _) in &colors[128..] {
            if seen.insert(color.map(|c| c >> 4)) && palette.len() < 256 {
                palette.push(color);
            }
        }
    }
    let distance =
        |a: [u8; 3], b: [u8; 3]| -> u32 { (0..3).map(|c| (i32::from(a[c]) - i32::from(b[c])).pow(2) as u32).sum() };
    let mut index_of: HashMap<[u8; 3], u8> = HashMap::new();
    let mut error = 0u64;
    for &(color, count) in &colors {
        let (index, nearest) = palette
            .iter()
            .enumerate()
            .map(|(index, &candidate)| (index, distance(candidate, color)))
            .min_by_key(|&(index, distance)| (distance, index))?;
        error += u64::from(nearest) * count as u64;
        index_of.insert(color, index as u8);
    }
    // Mean squared error per pixel; edges of text and curves stay far below, photographs far above.
    if error as f64 / pixels.len() as f64 > 4.0 {
        return None;
    }
    Some((palette.into_flattened(), pixels.iter().map(|pixel| index_of[pixel]).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(file: &[u8]) -> image::RgbImage {
        image::load_from_memory(file).unwrap().to_rgb8()
    }

    #[test]
    fn few_colours_are_kept_exactly() {
        let svg = r##"<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20"><rect width="40" height="20" fill="#fff"/><rect width="20" height="20" fill="#0072B2"/></svg>"##;
        let image = decode(&png(svg, 2.0).unwrap());
        assert_eq!(image.dimensions(), (80, 40));
        assert_eq!(image.get_pixel(10, 10).0, [0x00, 0x72, 0xB2]);
        assert_eq!(image.get_pixel(70, 10).0, [255, 255, 255]);
    }

    #[test]
    fn text_is_drawn_with_the_embedded_fonts() {
        let dark = |text: &str, attributes: &str| {
            let svg = format!(
                r##"<svg xmlns="http://www.w3.org/2000/svg" width="200" height="40"><rect width="200" height="40" fill="#fff"/><text x="5" y="30" font-size="20" font-family="Helvetica,sans-serif" {attributes}>{text}</text></svg>"##
            );
            pixels(&svg, 1.0).unwrap().0.iter().filter(|pixel| pixel[0] < 128).count()
        };
        let plain = dark("ação", "");
        assert!(plain > 50, "{plain}");
        assert!(dark("ação", "font-weight=\"bold\"") > plain);
        for sign in ["θ", "∇", "√", "−", "≤", "ŷ", "✓", "Σ"] {
            assert!(dark(sign, "") > 4, "{sign}");
        }
    }

    #[test]
    fn embedded_images_are_enlarged_without_smoothing() {
        let tile = encode(2, 1, png::ColorType::Grayscale, None, &[0, 255]).unwrap();
        let mut canvas = super::super::Svg::new((40, 20), 1);
        canvas.image((0, 0), (40, 20), &tile);
        let svg =
            format!(r#"<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20">{}</svg>"#, canvas.into_body());
        let (pixels, ..) = pixels(&svg, 1.0).unwrap();
        assert!(pixels.iter().all(|pixel| pixel[0] == 0 || pixel[0] == 255));
        assert_eq!(pixels.iter().filter(|pixel| pixel[0] == 255).count(), 400);
    }

    #[test]
    fn photographs_stay_in_full_colour() {
        let noise: Vec<[u8; 3]> =
            (0..10_000u32).map(|i| [(i * 7) as u8, ((i * 31) >> 3) as u8, ((i * 97) >> 5) as u8]).collect();
        assert!(reduce(&noise).is_none());
        let ramp: Vec<[u8; 3]> = (0..256u32).map(|i| [i as u8; 3]).collect();
        let (palette, indices) = reduce(&ramp).unwrap();
        assert_eq!(palette.len(), 768);
        assert!(indices.iter().zip(&ramp).all(|(&index, color)| palette[3 * usize::from(index)] == color[0]));
    }
}
