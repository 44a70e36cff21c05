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
    (!items.is_empty()).then(|| format!("<GDALMetadata>\n{items}</GDALMetadata>"))
}

/// Text without XML's escapes.
fn plain(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&apos;", "'").replace("&amp;", "&")
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
        ];
        let text = write(&bands, &["water & ice".into()]).unwrap();
        let mut again = vec![Band::default(); 3];
        read(&text, &mut again).unwrap();
        assert_eq!(again, bands);
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
