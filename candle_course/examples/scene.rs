//! Land cover from the visible bands of a real satellite scene: learns, from tiles of some places, classes
//! whose rule needs near infrared, maps the whole scene and writes it for QGIS.
//!
//! ```text
//! cargo run --release --example scene [the scene.tif] [the map.tif]
//! ```

use candle_course::prelude::*;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let scene = match arguments.next() {
        Some(path) => Scene::open(path)?,
        // The sample's place is not on record: this is only one that a map can be drawn at.
        None => {
            Scene::sample()?.with_georeference(Georeference::projected(32_723, [300_000.0, 7_500_000.0], [10.0, 10.0])?)
        }
    };
    let classes = scene.land_cover()?;
    let visible = ["blue", "green", "red"];
    let values = Scene::from_tensor(&scene.bands(&visible)?, &visible)?;
    let (mean, std) = values.mean_std()?;
    let tiles = scene.tiles(50).bands(&visible).normalize(&mean, &std).mask(&classes).build()?;
    let split = Split::blocks(&tiles.places(), 100.0).test(0.25).seed(1).build()?;

    let parameters = Parameters::new(1, &Device::Cpu);
    let conv = |name: &str, inputs, outputs| Conv2d::builder(inputs, outputs, 3).padding(1).build(&parameters.at(name));
    let model = Sequential::new()
        .add(conv("1", 3, 16)?)
        .add(Activation::Relu)
        .add(conv("2", 16, 16)?)
        .add(Activation::Relu)
        .add(conv("3", 16, 4)?);
    let loss = CrossEntropy::builder().ignore_index(255).build()?;
    let mut optimizer = AdamW::new(&parameters)?;
    let train = Subset::new(tiles.clone(), split.train())?;
    let loader = DataLoader::builder(train)
        .batch_size(6)
        .shuffle(1)
        .transform(RandomHorizontalFlip::new(2))
        .transform(RandomQuarterTurn::new(3))
        .build()?;
    for epoch in 0..30 {
        for batch in loader.epoch(epoch)? {
            train_step(&model, &loss, &mut optimizer, &batch?, 0.005)?;
        }
    }

    // Tiles of places that it has not seen; then all, with an overlap as wide as the model sees.
    let test = tiles.batch(split.test())?;
    let found = model.forward_t(&test.inputs, false)?.argmax(1)?;
    let right = found.eq(&test.targets)?.to_dtype(DType::F32)?.mean_all()?.to_scalar::<f32>()?;
    println!("{:.1} % of the pixels in {} places not seen in training", 100.0 * right, split.test().len());
    let map = scene.tiles(64).overlap(6).margin(3).bands(&visible).normalize(&mean, &std).build()?;
    let map = map.predict_classes(&model, &Device::Cpu)?;
    let path = arguments.next().unwrap_or_else(|| "land-cover.tif".to_owned());
    ClassMap::builder(&scene, &map)
        .names(&Scene::LAND_COVER)
        .colors(&Scene::LAND_COVER_COLORS)
        .build()?
        .write(&path)?;
    println!("the map is in {path}");
    Ok(())
}
