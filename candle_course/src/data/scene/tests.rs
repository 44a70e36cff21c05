use candle_core::{DType, Module};
use candle_nn::{Conv2dConfig, conv2d};
use candle_nn::{VarBuilder, VarMap};

use super::*;
use crate::data::Dataset;
#[cfg(feature = "samples")]
use crate::data::{Batch, Split};
use crate::test_support::data;

fn vector(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn labels(tensor: &Tensor) -> Vec<u32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Values told by their place: band · 10,000 + row · 100 + column.
fn scene(height: usize, width: usize) -> Scene {
    let places = (0..3).flat_map(|band| {
        (0..height).flat_map(move |row| (0..width).map(move |column| (band * 10_000 + row * 100 + column) as f32))
    });
    let bands = Tensor::from_vec(places.collect::<Vec<f32>>(), (3, height, width), &Device::Cpu).unwrap();
    Scene::from_tensor(&bands, &["red", "B08", "SCL"]).unwrap()
}

/// [`scene`] in which a pixel of the second band has no data.
fn scene_with_a_hole(row: usize, column: usize) -> Scene {
    let mut scene = scene(20, 30);
    Arc::make_mut(&mut scene.raster).nodata = Some((10_000 + row * 100 + column) as f64);
    scene
}

#[test]
#[cfg(feature = "samples")]
fn the_sample_is_what_its_source_holds() {
    use sha2::{Digest, Sha256};
    let scene = Scene::sample().unwrap();
    let Samples::U16(values) = &scene.raster.samples else { panic!("u16") };
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let digest = crate::data::files::hex(&Sha256::digest(&bytes));
    assert!(candle_course_samples::SOURCES.contains(&digest), "{digest}");
    assert_eq!((scene.names().join(" ").as_str(), scene.height(), scene.width()), ("B02 B03 B04 B08", 300, 300));
    assert!(scene.georeference().is_none() && scene.nodata().is_none());
    // The first value in the package is 299, the last 1675.
    assert_eq!(vector(&scene.band("blue").unwrap())[0], 0.0299);
    assert_eq!(vector(&scene.band("B8").unwrap()).last(), Some(&0.1675));
    let classes = labels(&scene.land_cover().unwrap());
    let counts = [0, 1, 2, 3].map(|class| classes.iter().filter(|&&c| c == class).count());
    // Counted by numpy, in f32.
    assert_eq!(counts, [130, 6292, 43931, 39647]);
    let (mean, _) = scene.mean_std().unwrap();
    for (mean, numpy) in mean.iter().zip([0.049614513333, 0.071130384444, 0.084972572222, 0.226996934444]) {
        assert!((mean - numpy).abs() < 1e-9, "{mean} {numpy}");
    }
}

#[test]
fn indices_are_those_of_spyndex() {
    let stored: serde_json::Value =
        serde_json::from_slice(&std::fs::read(data("scene/indices.json")).unwrap()).unwrap();
    let numbers = |value: &serde_json::Value| -> Vec<f64> {
        value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
    };
    let bands = stored["bands"].as_object().unwrap();
    let names: Vec<&str> = bands.keys().map(String::as_str).collect();
    let values: Vec<f32> = bands.values().flat_map(numbers).map(|value| value as f32).collect();
    let pixels = values.len() / names.len();
    let tensor = Tensor::from_vec(values, (names.len(), 1, pixels), &Device::Cpu).unwrap();
    let scene = Scene::from_tensor(&tensor, &names).unwrap();
    use SpectralIndex::*;
    for index in [Ndvi, Gndvi, Evi, Evi2, Savi, Msavi, Ndwi, Mndwi, Ndmi, Nbr, Ndbi, Bsi] {
        let ours = vector(&scene.index(index).unwrap());
        let theirs = numbers(&stored["indices"][format!("{index:?}").to_uppercase()]);
        for (ours, theirs) in ours.iter().zip(&theirs) {
            // Near 0 the denominator of EVI can be.
            let limit = 1e-5 * theirs.abs().max(1.0) * theirs.abs().max(1.0);
            assert!((f64::from(*ours) - theirs).abs() < limit, "{index:?}: {ours} {theirs}");
        }
        assert_eq!(ours.len(), theirs.len());
    }
    let plain = vector(&scene.normalized_difference("nir", "red").unwrap());
    assert_eq!(plain, vector(&scene.index(Ndvi).unwrap()));
}

#[test]
fn pixels_without_data_are_nan_zero_and_ignored() {
    let scene = scene_with_a_hole(3, 4);
    assert_eq!(vector(&scene.valid().unwrap()).iter().filter(|&&valid| valid == 0.0).count(), 1);
    let nir = vector(&scene.band("nir").unwrap());
    assert!(nir[3 * 30 + 4].is_nan() && nir.iter().filter(|value| value.is_nan()).count() == 1);
    assert!(vector(&scene.index(SpectralIndex::Ndvi).unwrap())[3 * 30 + 4].is_nan());
    let mask = Tensor::ones((20, 30), DType::U32, &Device::Cpu).unwrap();
    let clouds = scene.pixels_with("SCL", &[20_000, 20_101]).unwrap();
    let tiles = scene.tiles(10).mask(&mask).ignore(&clouds).ignore_index(9).build().unwrap();
    let example = tiles.get(0).unwrap();
    let target = labels(&example.target);
    let ignored: Vec<usize> = (0..100).filter(|&pixel| target[pixel] == 9).collect();
    assert_eq!(ignored, [0, 11, 34]);
    assert!(target.iter().all(|&label| label == 1 || label == 9));
    assert_eq!(vector(&example.input)[100 + 34], 0.0);
    // Bands that have data there are tiles without a hole.
    let tiles = scene.tiles(10).bands(&["red"]).mask(&mask).build().unwrap();
    assert!(labels(&tiles.get(0).unwrap().target).iter().all(|&label| label == 1));
    let (mean, std) = scene.mean_std().unwrap();
    let values: Vec<f64> = nir.iter().filter(|value| !value.is_nan()).map(|&value| f64::from(value)).collect();
    let expected = values.iter().sum::<f64>() / values.len() as f64;
    let deviation = (values.iter().map(|value| (value - expected).powi(2)).sum::<f64>() / values.len() as f64).sqrt();
    assert!((mean[1] - expected).abs() < 1e-6 && (std[1] - deviation).abs() < 1e-6, "{mean:?} {std:?}");
}

#[test]
fn tiles_cover_the_scene_and_their_values_are_in_place() {
    let scene = scene(23, 31);
    let mask = Tensor::arange(0u32, 23 * 31, &Device::Cpu).unwrap().reshape((23, 31)).unwrap();
    for (size, overlap) in [(8, 0), (8, 3), (23, 0), (7, 6), (5, 1)] {
        let tiles = scene.tiles(size).overlap(overlap).mask(&mask).build().unwrap();
        let mut seen = vec![false; 23 * 31];
        for index in 0..tiles.len() {
            let (top, left) = tiles.position(index).unwrap();
            let example = tiles.get(index).unwrap();
            let (input, target) = (vector(&example.input), labels(&example.target));
            for pixel in 0..size * size {
                let (row, column) = (top + pixel / size, left + pixel % size);
                assert_eq!(input[size * size + pixel], (10_000 + row * 100 + column) as f32);
                assert_eq!(target[pixel], (row * 31 + column) as u32);
                seen[row * 31 + column] = true;
            }
            let [top_place, left_place, bottom, right] = tiles.places()[index];
            assert_eq!([top_place, left_place], [top as f64, left as f64]);
            assert_eq!([bottom - top_place, right - left_place], [size as f64; 2]);
        }
        assert!(seen.iter().all(|&seen| seen), "{size} {overlap}");
        assert!(tiles.get(tiles.len()).is_err());
    }
    // A tile is the same whichever bands it shows.
    let again = scene.tiles(8).bands(&["red"]).build().unwrap();
    let tiles = scene.tiles(8).build().unwrap();
    assert!(again.origin(5) == tiles.origin(5) && tiles.origin(4) != tiles.origin(5) && tiles.origin(99).is_none());
    let tiles = scene.tiles(8).bands(&["SCL", "red"]).normalize(&[20_000.0, 0.0], &[2.0, 1.0]).build().unwrap();
    let example = tiles.get(5).unwrap();
    assert_eq!(vector(&example.input)[..2], [(8 * 100 + 8) as f32 / 2.0, (8 * 100 + 9) as f32 / 2.0]);
    assert_eq!(labels(&example.target), [8, 8]);
}

/// Two convolutions, 5 × 5 in all, with values of all bands.
fn model() -> impl Fn(&Tensor) -> candle_core::Result<Tensor> {
    let variables = VarMap::new();
    let scope = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    let config = Conv2dConfig { padding: 1, ..Default::default() };
    let (one, two) = (conv2d(3, 6, 3, config, scope.pp("1")).unwrap(), conv2d(6, 4, 3, config, scope.pp("2")).unwrap());
    move |inputs: &Tensor| two.forward(&one.forward(&(inputs / 20_000.0)?)?.relu()?)
}

#[test]
fn a_stitched_prediction_is_that_of_the_whole_scene() {
    let scene = scene(61, 83);
    let model = model();
    let whole = model(&scene.to_tensor().unwrap().unsqueeze(0).unwrap()).unwrap().squeeze(0).unwrap();
    let classes = labels(&whole.argmax(0).unwrap());
    for (size, overlap, batch) in [(16, 4, 3), (20, 7, 8), (61, 5, 1), (17, 12, 2)] {
        let tiles = scene.tiles(size).overlap(overlap).margin(2).batch_size(batch).build().unwrap();
        let stitched = tiles.predict(&model, &Device::Cpu).unwrap();
        assert_eq!(stitched.dims(), [4, 61, 83]);
        let difference = vector(&(stitched - &whole).unwrap()).into_iter().fold(0f32, |most, x| most.max(x.abs()));
        assert_eq!(difference, 0.0, "tiles of {size} with an overlap of {overlap}");
        assert_eq!(labels(&tiles.predict_classes(&model, &Device::Cpu).unwrap()), classes);
    }
    // Without a margin the edges of tiles show.
    let tiles = scene.tiles(16).build().unwrap();
    let cut = tiles.predict(&model, &Device::Cpu).unwrap();
    assert!(vector(&(cut - &whole).unwrap()).iter().any(|x| x.abs() > 1e-3));
}

#[test]
fn blending_goes_smoothly_from_tile_to_tile() {
    // A model that says which tile it sees: 0 in the first, 1 in the second.
    let scene = scene(8, 14);
    let tiles = scene.tiles(8).overlap(2).margin(0).bands(&["red"]).batch_size(1).build().unwrap();
    let model = |inputs: &Tensor| {
        let first = inputs.narrow(2, 0, 1)?.narrow(3, 0, 1)?.gt(3.0)?.to_dtype(DType::F32)?;
        first.broadcast_as(inputs.shape())?.contiguous()
    };
    let row = vector(&tiles.predict(&model, &Device::Cpu).unwrap())[..14].to_vec();
    // In the overlap of two columns the second tile counts 1 : 2, then 2 : 1... of a ramp of three steps.
    let expected = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0 / 3.0, 2.0 / 3.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
    assert!(row.iter().zip(expected).all(|(got, expected)| (got - expected).abs() < 1e-6), "{row:?}");
    let hole = scene_with_a_hole(3, 4);
    let classes = hole.tiles(10).build().unwrap().predict_classes(&self::model(), &Device::Cpu).unwrap();
    let ignored: Vec<usize> = (0..600).filter(|&pixel| labels(&classes)[pixel] == 255).collect();
    assert_eq!(ignored, [3 * 30 + 4]);
}

#[test]
fn scenes_and_class_maps_come_back_from_disk() {
    let folder = tempfile::tempdir().unwrap();
    let place = Georeference::projected(31_983, [300_000.0, 7_400_000.0], [10.0, 10.0]).unwrap();
    let scene = scene_with_a_hole(3, 4).with_georeference(place.clone());
    let path = folder.path().join("scene.tif");
    scene.write(&path).unwrap();
    let again = Scene::open(&path).unwrap();
    assert_eq!(again.raster, scene.raster);
    assert_eq!(again.names(), ["red", "B08", "SCL"]);
    let part = again.window(2, 3, 5, 6).unwrap();
    let built = Scene::builder(&path).window(2, 3, 5, 6).build().unwrap();
    assert_eq!(part.raster, built.raster);
    assert_eq!(part.georeference().unwrap().at(0.0, 0.0), place.at(2.0, 3.0));
    assert_eq!(vector(&part.band("red").unwrap())[0], 203.0);
    let told = Scene::builder(&path).scale(0.5).offset(-1.0).nodata(0.0).names(&["a", "b", "c"]).build().unwrap();
    let values = vector(&told.band("a").unwrap());
    assert!(values[0].is_nan() && values[1] == -0.5);

    let classes: Vec<u8> = (0..600).map(|i| (i % 4) as u8).collect();
    let classes = Tensor::from_vec(classes, (20, 30), &Device::Cpu).unwrap();
    let colors = [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.2, 0.4, 0.6], [1.0; 3]];
    let map = ClassMap::builder(&scene, &classes).names(&["a", "b", "c", "d"]).colors(&colors).build().unwrap();
    let path = folder.path().join("map.tif");
    map.write(&path).unwrap();
    let read = Scene::open(&path).unwrap();
    assert_eq!(read.raster, Arc::new(map.raster.clone()));
    assert_eq!((read.georeference(), read.nodata()), (scene.georeference(), Some(255.0)));
    let mut file = tiff::decoder::Decoder::new(std::fs::File::open(&path).unwrap()).unwrap();
    let palette = file.get_tag_u16_vec(tiff::tags::Tag::ColorMap).unwrap();
    assert_eq!(palette.len(), 768);
    assert_eq!([palette[2], palette[256 + 2], palette[512 + 2]], [51 * 257, 102 * 257, 153 * 257]);
    assert_eq!(file.get_tag_u32(tiff::tags::Tag::PhotometricInterpretation).unwrap(), 3);
}

#[test]
fn wrong_arguments_are_named() {
    let scene = scene(20, 30);
    let text = |result: Result<SceneTiles>| result.unwrap_err().to_string();
    assert!(text(scene.tiles(21).build()).contains("`size`: expected 1 to 20"));
    assert!(text(scene.tiles(0).build()).contains("`size`"));
    assert!(text(scene.tiles(5).overlap(5).build()).contains("`overlap`"));
    assert!(text(scene.tiles(5).overlap(3).margin(2).build()).contains("`margin`: expected at most half"));
    assert!(text(scene.tiles(5).batch_size(0).build()).contains("`batch_size`"));
    assert!(text(scene.tiles(5).bands(&["blue"]).build()).contains("expected one of red, B08, SCL, got blue"));
    assert!(text(scene.tiles(5).bands(&[]).build()).contains("`bands`"));
    assert!(text(scene.tiles(5).normalize(&[0.0], &[1.0]).build()).contains("3 finite values each"));
    assert!(text(scene.tiles(5).normalize(&[0.0; 3], &[1.0, 0.0, 1.0]).build()).contains("above 0"));
    let ones = |dtype, shape: (usize, usize)| Tensor::ones(shape, dtype, &Device::Cpu).unwrap();
    let minus = Tensor::from_vec(vec![-1i64; 600], (20, 30), &Device::Cpu).unwrap();
    assert!(text(scene.tiles(5).mask(&ones(DType::U32, (30, 20))).build()).contains("`mask`: expected [20, 30]"));
    assert!(text(scene.tiles(5).mask(&ones(DType::F32, (20, 30))).build()).contains("whole numbers, got F32"));
    assert!(text(scene.tiles(5).mask(&minus).build()).contains("from 0 on, got -1"));
    let tiles = scene.tiles(5).build().unwrap();
    let flat = |inputs: &Tensor| inputs.flatten_from(1);
    let error = tiles.predict(&flat, &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("expected [6, K, 5, 5]"), "{error}");
    let fails = |_: &Tensor| -> candle_core::Result<Tensor> { candle_core::bail!("no weights") };
    assert!(tiles.predict(&fails, &Device::Cpu).unwrap_err().to_string().contains("no weights"));

    let text = |result: Result<Scene>| result.unwrap_err().to_string();
    let bands = Tensor::zeros((2, 3, 4), DType::F32, &Device::Cpu).unwrap();
    assert!(text(Scene::from_tensor(&bands, &["a"])).contains("one for each of 2 bands, got 1"));
    assert!(text(Scene::from_tensor(&bands, &["a", "a"])).contains("\"a\" twice"));
    assert!(text(Scene::from_tensor(&bands.get(0).unwrap(), &["a"])).contains("[C, H, W]"));
    assert!(text(scene.window(0, 0, 21, 1)).contains("`window`"));
    assert!(text(Scene::open("nowhere.tif")).contains("cannot read nowhere.tif"));
    let folder = tempfile::tempdir().unwrap();
    assert!(text(Scene::open(folder.path())).contains("is no file"));
    assert!(text(Scene::builder("x").scale(0.0).build()).contains("`scale`"));
    let index = scene.index(SpectralIndex::Evi).unwrap_err().to_string();
    assert!(index.contains("Evi needs nir, red, blue") && index.contains("got blue"), "{index}");
    let map = |classes: &Tensor| ClassMap::builder(&scene, classes).build().unwrap_err().to_string();
    assert!(map(&ones(DType::U8, (30, 20))).contains("[20, 30]") && map(&ones(DType::F32, (20, 30))).contains("whole"));
    assert!(map(&(ones(DType::U32, (20, 30)) * 256.0).unwrap()).contains("0 to 255, got 256"));
}

#[test]
#[cfg(feature = "samples")]
fn a_batch_of_the_sample_goes_into_a_loader_by_blocks() {
    let scene = Scene::sample().unwrap();
    let tiles = scene.tiles(50).mask(&scene.land_cover().unwrap()).build().unwrap();
    let split = Split::blocks(&tiles.places(), 100.0).validation(0.25).seed(3).build().unwrap();
    assert_eq!(split.train().len() + split.validation().len(), 36);
    let Batch { inputs, targets, .. } = tiles.batch(split.validation()).unwrap();
    assert_eq!((inputs.dims(), inputs.dtype()), (&[split.validation().len(), 4, 50, 50][..], DType::F32));
    assert_eq!((targets.dims(), targets.dtype()), (&[split.validation().len(), 50, 50][..], DType::U32));
}
