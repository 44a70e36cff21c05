//! GDAL's tag for names, scales and offsets of bands: a flat list of items in XML.

use super::Band;
use crate::error::{Error, Result};
use crate::text::xml;

/// Fills in what `text` says of the bands.
pub(super) fn read(text: &str, bands: &mut [Band]) -> Result<()> {
    for item in text.split("<Item ").skip(1) {
        let Some((attributes, rest)) = item.split_once('>') else { continue };
        // GDAL escapes twice, and undoes it twice.
        let value = plain(&plain(rest.split('<').next().unwrap_or_default()));
        let attribute = |name: &str| {
            let (_, rest) = attributes.split_once(&format!("{name}=\""))?;
            Some(rest.split('"').next().unwrap_or_default())
        };
        let sample = attribute("sample").and_then(|sample| sample.trim().parse::<usize>().ok());
        let Some(band) = sample.and_then(|sample| bands.get_mut(sample)) else { continue };
        let number = || {
            let number: f64 = value.trim().parse().unwrap_or(f64::NAN);
            let broken = || Error::data(format!("a band's scale or offset is {value:?}, which is no number"));
            number.is_finite().then_some(number).ok_or_else(broken)
        };
        match attribute("role") {
            Some("description") => band.name = Some(value),
            Some("scale") => band.scale = number()?,
            Some("offset") => band.offset = number()?,
            _ => {}
        }
    }
    Ok(())
}

/// Names, and scales and offsets where there are any; then `classes` by number.
pub(super) fn write(bands: &[Band], classes: &[String]) -> Option<String> {
    let mut items = String::new();
    for (sample, band) in bands.iter().enumerate() {
        let mut item = |role: &str, value: String| {
            let name = role.to_uppercase();
            items.push_str(&format!("  <Item name=\"{name}\" sample=\"{sample}\" role=\"{role}\">{value}</Item>\n"));
        };
        if let Some(name) = &band.name {
            item("description", xml(&xml(name)));
        }
        if (band.scale, band.offset) != (1.0, 0.0) {
            item("scale", band.scale.to_string());
            item("offset", band.offset.to_string());
        }
    }
    for (class, name) in classes.iter().enumerate() {
        items.push_str(&format!("  <Item name=\"CLASS_{class}\">{}</Item>\n", xml(&xml(name))));
    }
    // A text of TIFF is ASCII: letters beyond it go by their numbers, as XML has them.
    let ascii = |letter: char| if letter.is_ascii() { letter.to_string() } else { format!("&#{};", letter as u32) };
    (!items.is_empty()).then(|| format!("<GDALMetadata>\n{items}</GDALMetadata>").chars().map(ascii).collect())
}

/// Text without XML's escapes.
fn plain(text: &str) -> String {
    let mut parts = text.split("&#");
    let mut letters = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let named = part.split_once(';').and_then(|(number, rest)| {
            let number = match number.strip_prefix(['x', 'X']) {
                Some(digits) => u32::from_str_radix(digits, 16),
                None => number.parse(),
            };
            Some((char::from_u32(number.ok()?)?, rest))
        });
        match named {
            Some((letter, rest)) => {
                letters.push(letter);
                letters.push_str(rest);
            }
            None => letters.extend(["&#", part]),
        }
    }
    letters
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let bands = vec![
            Band { name: Some("near <infra> & \"red\"".into()), scale: 1e-4, offset: -0.1 },
            Band::default(),
            Band { name: Some("B04".into()), ..Band::default() },
            Band { name: Some("água &#233; μm".into()), ..Band::default() },
        ];
        let text = write(&bands, &["water & ice".into(), "vegetação".into()]).unwrap();
        assert!(text.is_ascii() && text.contains("CLASS_1\">vegeta&#231;&#227;o<"), "{text}");
        let mut again = vec![Band::default(); 4];
        read(&text, &mut again).unwrap();
        assert_eq!(again, bands);
        let hexadecimal = write(&bands, &[]).unwrap().replace("&#225;", "&#xE1;");
        read(&hexadecimal, &mut again).unwrap();
        assert_eq!(again, bands);
        assert_eq!(plain("&#; &#9999999; &#x; &# &amp;#1"), "&#; &#9999999; &#x; &# &#1");
        assert!(text.contains("<Item name=\"CLASS_0\">water &amp;amp; ice</Item>"), "{text}");
        assert_eq!(write(&[Band::default()], &[]), None);
        let broken = text.replace("0.0001", "much");
        assert!(read(&broken, &mut again).unwrap_err().to_string().contains("\"much\", which is no number"));
        // Cut anywhere, or about bands that are not there: no panic.
        (0..text.len())
            .filter(|&end| text.is_char_boundary(end))
            .for_each(|end| drop(read(&text[..end], &mut again[..1])));
    }
}
