//! Files that GDAL wrote and what GDAL says of them: see `scripts/reference_scene.py`.

use std::io::Cursor;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::*;
use crate::test_support::{HARMLESS, data, mutations, peak_memory, quietly, tried};

fn stored() -> Value {
    serde_json::from_slice(&std::fs::read(data("scene/files.json")).unwrap()).unwrap()
}

fn bytes(case: &Value) -> Vec<u8> {
    STANDARD.decode(case["file"].as_str().unwrap()).unwrap()
}

fn read_all(file: &[u8]) -> Result<Raster> {
    read(Cursor::new(file), file.len() as u64, None)
}

/// The values that the script gave GDAL.
fn expected(kind: Kind, [count, height, width]: [usize; 3]) -> Samples {
    let places =
        (0..count).flat_map(|band| (0..height).flat_map(move |row| (0..width).map(move |column| [band, row, column])));
    let values = places.map(|[band, row, column]| (band * 7919 + row * 104_729 + column * 1_299_709) % 65_521);
    match kind {
        Kind::U8 => Samples::U8(values.map(|value| (value % 251) as u8).collect()),
        Kind::U16 => Samples::U16(values.map(|value| value as u16).collect()),
        Kind::I16 => Samples::I16(values.map(|value| (value as i32 - 32_760) as i16).collect()),
        Kind::F32 => Samples::F32(values.map(|value| value as f32 / 16.0).collect()),
    }
}

fn kind(case: &Value) -> Kind {
    match case["dtype"].as_str().unwrap() {
        "uint8" => Kind::U8,
        "uint16" => Kind::U16,
        "int16" => Kind::I16,
        "float32" => Kind::F32,
        other => panic!("{other}"),
    }
}

/// Where the entries of the first directory of a little-endian file stand.
fn entries(file: &[u8]) -> impl Iterator<Item = usize> {
    let directory = u32::from_le_bytes([file[4], file[5], file[6], file[7]]) as usize;
    let count = usize::from(u16::from_le_bytes([file[directory], file[directory + 1]]));
    (0..count).map(move |i| directory + 2 + 12 * i)
}

#[test]
fn files_of_gdal_are_read_as_gdal_reads_them() {
    let stored = stored();
    let cases = stored["cases"].as_array().unwrap();
    let mut layouts = std::collections::BTreeSet::new();
    for case in cases {
        let name = case["options"].to_string();
        let raster = read_all(&bytes(case)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let side = |name: &str| stored[name].as_u64().unwrap() as usize;
        assert_eq!(raster.size, [case["count"].as_u64().unwrap() as usize, side("height"), side("width")], "{name}");
        let mut values = expected(kind(case), raster.size);
        if case["sparse"] == true {
            // One tile was written: rows 0 to 15, columns from 16 on.
            let Samples::U16(values) = &mut values else { panic!("{name}") };
            let [_, height, width] = raster.size;
            for (place, value) in values.iter_mut().enumerate() {
                if place / width % height >= 16 || place % width < 16 {
                    *value = 7;
                }
            }
        }
        assert!(raster.samples == values, "{name}: other values");
        let nodata = case["nodata"].as_str().map(|text| text.parse::<f64>().unwrap());
        assert_eq!(format!("{:?}", raster.nodata), format!("{nodata:?}"), "{name}");
        let (place, stored) = (raster.georeference.as_ref(), case["transform"].as_array());
        let stored = stored.map(|numbers| numbers.iter().map(|number| number.as_f64().unwrap()).collect::<Vec<_>>());
        assert_eq!(place.map(|place| place.transform().to_vec()), stored, "{name}");
        assert_eq!(place.and_then(Georeference::epsg), case["epsg"].as_u64().map(|code| code as u32), "{name}");
        if let Some(band) = case["name"].as_str() {
            let facts = Band {
                name: Some(band.to_owned()),
                scale: case["scale"].as_f64().unwrap(),
                offset: case["offset"].as_f64().unwrap(),
            };
            assert_eq!(raster.bands[0], facts, "{name}");
        }
        layouts.insert(format!("{:?}{}", kind(case), name));
        // Written by this crate and read again, it is the same.
        let again = read_all(&write(&raster, &[], &[]).unwrap()).unwrap();
        if raster.nodata.is_some_and(f64::is_nan) {
            assert_eq!(again.samples, raster.samples);
        } else {
            assert_eq!(again, raster, "{name}");
        }
    }
    assert!(layouts.len() > 50, "{}", layouts.len());
}

#[test]
fn a_window_is_a_part_with_its_place() {
    let stored = stored();
    for case in stored["cases"].as_array().unwrap().iter().filter(|case| case["sparse"] == false) {
        let file = bytes(case);
        let whole = read_all(&file).unwrap();
        let window = Window { row: 3, column: 5, height: 15, width: 12 };
        let part = read(Cursor::new(&file), file.len() as u64, Some(window)).unwrap();
        let [count, height, width] = whole.size;
        assert_eq!(part.size, [count, 15, 12]);
        for band in 0..count {
            for (row, column) in [(0, 0), (14, 11), (7, 3)] {
                let at = (band * height + row + 3) * width + column + 5;
                assert_eq!(part.samples.get((band * 15 + row) * 12 + column), whole.samples.get(at));
            }
        }
        let corner = |raster: &Raster, row, column| raster.georeference.as_ref().map(|place| place.at(row, column));
        assert_eq!(corner(&part, 0.0, 0.0), corner(&whole, 3.0, 5.0));
    }
    let file = bytes(&stored["cases"][0]);
    for window in [
        Window { row: 0, column: 0, height: 22, width: 1 },
        Window { row: 0, column: 19, height: 1, width: 1 },
        Window { row: 0, column: 0, height: 0, width: 1 },
        Window { row: usize::MAX, column: 0, height: 2, width: 1 },
    ] {
        let error = read(Cursor::new(&file), file.len() as u64, Some(window)).unwrap_err().to_string();
        assert!(error.contains("`window`: expected a part of 21×19 pixels"), "{error}");
    }
}

/// GDAL's tags for a place in EPSG:31983, as it wrote them into a file, are those that this crate writes.
#[test]
fn a_place_is_written_with_gdals_tags() {
    use tiff::decoder::Decoder;
    use tiff::tags::Tag;
    let stored = stored();
    let case = stored["cases"].as_array().unwrap().iter().find(|case| case["epsg"] == 31983).unwrap();
    let gdal = bytes(case);
    let raster = read_all(&gdal).unwrap();
    let place = Georeference::projected(31_983, [333_000.5, 7_394_321.25], [10.0, 20.0]).unwrap();
    let ours = write(&Raster { georeference: Some(place), ..raster }, &[], &[]).unwrap();
    let numbers =
        |file: &[u8], tag| Decoder::new(Cursor::new(file)).unwrap().get_tag(tag).unwrap().into_f64_vec().unwrap();
    for tag in [Tag::ModelPixelScaleTag, Tag::ModelTiepointTag] {
        assert_eq!(numbers(&ours, tag), numbers(&gdal, tag));
    }
    let keys = |file: &[u8]| Decoder::new(Cursor::new(file)).unwrap().get_tag_u16_vec(Tag::GeoKeyDirectoryTag).unwrap();
    let (ours, gdal) = (keys(&ours), keys(&gdal));
    for key in ours[4..].chunks_exact(4) {
        assert!(gdal[4..].chunks_exact(4).any(|other| other == key), "{key:?} is not in {gdal:?}");
    }
    assert_eq!(ours[..4], [1, 1, 0, 3]);
}

#[test]
fn what_is_not_read_is_named() {
    let error = |file: &[u8]| match read_all(file) {
        Ok(raster) => format!("read, {:?}", raster.size),
        Err(error) => error.to_string(),
    };
    assert!(error(b"").contains("not a TIFF file") && error(b"%PDF-1.4 and so on").contains("not a TIFF file"));
    assert!(error(b"II*\0\xff\xff\xff\xff").contains("the file ends before its directory"));
    let stored = stored();
    let file = bytes(&stored["cases"][0]);
    assert!(read_all(&file).is_ok());
    // The entry of a tag in the directory.
    let entry = |tag: u16| {
        let place = entries(&file).find(|&at| file[at..at + 2] == tag.to_le_bytes());
        place.unwrap_or_else(|| panic!("no tag {tag}"))
    };
    let with = |tag: u16, value: u16| {
        let mut file = file.clone();
        let at = entry(tag);
        // One value, in the entry itself.
        file[at + 2..at + 10].copy_from_slice(&[3, 0, 1, 0, 0, 0, value.to_le_bytes()[0], value.to_le_bytes()[1]]);
        file
    };
    for (tag, value, says) in [
        (258, 12, "u8, u16, i16 or f32, got unsigned ones of 12 bits"),
        (339, 2, "got signed ones of 8 bits"),
        (262, 6, "YCbCr"),
        (259, 7, "ompression"),
        (256, 60_000, "nconsistent"),
        (258, 0, "its"),
    ] {
        let text = error(&with(tag, value));
        assert!(text.contains(says), "tag {tag} of {value}: {text}");
    }
}

#[test]
fn damaged_files_are_read_or_refused() {
    let stored = stored();
    let cases = stored["cases"].as_array().unwrap();
    quietly(|| {
        let mut whole = 0;
        for (number, case) in cases.iter().enumerate() {
            let file = bytes(case);
            for (at, bytes) in mutations(31 + number as u64, &file, 100_000 / cases.len() + 1).enumerate() {
                let (result, memory) = peak_memory(|| read_all(&bytes).map(|raster| raster.size));
                let name = &case["options"];
                // As much as so large a file can hold, decoded twice.
                assert!(memory < 32 << 20, "mutation {at} of {name} takes {memory} bytes");
                whole += usize::from(result.is_ok());
            }
        }
        assert!((10_000..99_000).contains(&whole), "{whole} read");
        tried(HARMLESS, "GeoTIFF files, damaged", 100_000);
    });
}

#[test]
fn a_small_file_makes_no_large_image() {
    let stored = stored();
    for (case, name) in stored["cases"].as_array().unwrap().iter().map(|case| (case, case["options"].to_string())) {
        if case["sparse"] == false || name.contains("BIG") {
            continue;
        }
        // A sparse file whose sides are 60,000 instead, of tiles as large: nothing is missing but the file.
        let mut file = bytes(case);
        for at in entries(&file.clone()) {
            let tag = u16::from_le_bytes([file[at], file[at + 1]]);
            if matches!(tag, 256 | 257) {
                file[at + 8..at + 12].copy_from_slice(&60_000u32.to_le_bytes());
            } else if matches!(tag, 322 | 323) {
                // Two tiles in each direction, as before.
                file[at + 8..at + 12].copy_from_slice(&30_000u32.to_le_bytes());
                file[at + 2] = 4;
            }
        }
        let (result, memory) = peak_memory(|| read_all(&file));
        let error = result.unwrap_err().to_string();
        assert!(error.contains("cannot hold an image of"), "{name}: {error}");
        assert!(memory < 1 << 20, "{memory}");
    }
}
