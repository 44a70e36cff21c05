//! Images in folders named by class.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::data::dataset::{EditImage, batch_of_images};
use crate::data::pixels::{self, Channels, Reading};
use crate::data::{Batch, Dataset, Example};
use crate::error::{Context, Error, Result};
use crate::setters::setters;

/// PNG, JPEG and TIFF files, one folder per class, read when they are asked for.
///
/// ```text
/// tiles/forest/a.png   tiles/forest/b.jpg   tiles/water/a.png
/// ```
///
/// Classes are numbered in alphabetical order of their folders; within a class, its own files come
/// first, then those of its sub-folders, each in alphabetical order: the order of torchvision's
/// `ImageFolder`. Which files are images is told by their extensions, and how they are read by their
/// content. Names that begin with a dot are passed over. Pixels are as they are stored: the orientation
/// that a camera noted (EXIF) is not applied, as in torchvision. `inputs`: `[3, H, W]` (or `[1, H, W]`, see
/// [`ImageFolderBuilder::grey`]), f32 in `[0, 1]`, of 8 bits or of 16; a TIFF has as many channels as bands,
/// see [`ImageFolderBuilder::scale`]; `targets`: u32.
///
/// # Examples
///
/// ```no_run
/// use candle_course::data::{DataLoader, ImageFolder};
///
/// let tiles = ImageFolder::builder("tiles").resize(64, 64).build()?;
/// println!("{:?}", tiles.class_names());
/// let loader = DataLoader::builder(tiles).batch_size(32).shuffle(1).workers(4).build()?;
/// # Ok::<(), candle_course::error::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ImageFolder {
    files: Arc<Vec<(PathBuf, u32)>>,
    class_names: Arc<Vec<String>>,
    reading: Reading,
}

fn sorted(folder: &Path) -> Result<Vec<PathBuf>> {
    let cannot = || format!("cannot list {}", folder.display());
    let mut paths = fs::read_dir(folder)
        .with_context(cannot)?
        .map(|entry| entry.map(|entry| entry.path()).with_context(cannot))
        .collect::<Result<Vec<_>>>()?;
    paths.retain(|path| !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')));
    paths.sort();
    Ok(paths)
}

/// What this type reads, and what torchvision reads besides.
const READABLE: [&str; 5] = ["png", "jpg", "jpeg", "tif", "tiff"];
const OTHERS: [&str; 4] = ["bmp", "pgm", "ppm", "webp"];

/// The images of one class, in torchvision's order: by the path of their folder, then by name.
fn images_of(class: &Path) -> Result<Vec<PathBuf>> {
    let (mut folders, mut seen) = (vec![class.to_owned()], HashSet::new());
    let mut images: Vec<(PathBuf, PathBuf)> = Vec::new();
    while let Some(folder) = folders.pop() {
        if !seen.insert(fs::canonicalize(&folder).with_context(|| format!("cannot list {}", folder.display()))?) {
            return Err(Error::data(format!("{} leads to a folder that the class has already", folder.display()))
                .hint("its images would count twice, or for ever: remove the link"));
        }
        for path in sorted(&folder)? {
            let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
            let named = READABLE.contains(&extension.as_str());
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => folders.push(path),
                Ok(metadata) if metadata.is_file() && named => images.push((folder.clone(), path)),
                Ok(_) if named => return Err(no_file(&path)),
                Err(error) if named => {
                    return Err(Error::from(error).context(format!("cannot read {}", path.display())));
                }
                _ if OTHERS.contains(&extension.as_str()) => {
                    return Err(Error::data(format!("{} is neither PNG nor JPEG nor TIFF", path.display()))
                        .hint("convert it, or take it out of the folder"));
                }
                _ => {}
            }
        }
    }
    // Not folder by folder: of `a` and `a-b`, the path of a folder in `a` comes last.
    images.sort_by(|(a, x), (b, y)| (a.as_os_str(), x).cmp(&(b.as_os_str(), y)));
    Ok(images.into_iter().map(|(_, path)| path).collect())
}

/// What has an image's name and cannot be opened as one: a pipe would never end.
fn no_file(path: &Path) -> Error {
    Error::data(format!("{} is no file, but a pipe, a socket or a device", path.display()))
        .hint("take it out of the folder, or give it a name that is not an image's")
}

impl ImageFolder {
    /// The images below `folder`.
    ///
    /// # Errors
    /// If the folder cannot be read, has no sub-folders, or one of them has no images, has images of
    /// another format, or something with an image's name that is no file.
    pub fn new(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let mut files = Vec::new();
        let mut class_names = Vec::new();
        for class in sorted(folder)?.into_iter().filter(|path| path.is_dir()) {
            let images = images_of(&class)?;
            if images.is_empty() {
                return Err(Error::data(format!("{} has no .png, .jpg, .jpeg, .tif or .tiff files", class.display())));
            }
            files.extend(images.into_iter().map(|image| (image, class_names.len() as u32)));
            class_names.push(class.file_name().unwrap_or_default().to_string_lossy().into_owned());
        }
        if class_names.is_empty() {
            return Err(Error::data(format!("{}: expected a sub-folder per class, got none", folder.display())));
        }
        Ok(Self { files: Arc::new(files), class_names: Arc::new(class_names), reading: Reading::default() })
    }

    /// The images below `folder`, as they are, unless told otherwise.
    pub fn builder(folder: impl AsRef<Path>) -> ImageFolderBuilder {
        ImageFolderBuilder { folder: folder.as_ref().to_owned(), reading: Reading::default() }
    }

    /// The name of every class, in order of the targets.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// The class of every image, without reading any.
    pub fn labels(&self) -> Vec<u32> {
        self.files.iter().map(|(_, label)| *label).collect()
    }

    /// Appends the values of image `index`; its size and its class.
    fn read(&self, index: usize, values: &mut Vec<f32>) -> Result<([usize; 3], Tensor)> {
        let (path, label) = self
            .files
            .get(index)
            .ok_or_else(|| Error::argument("index", format!("less than {}", self.len()), index))?;
        let cannot = || format!("cannot read {}", path.display());
        if !fs::metadata(path).with_context(cannot)?.is_file() {
            return Err(no_file(path));
        }
        let file = File::open(path).with_context(cannot)?;
        let size = pixels::read(BufReader::new(file), &self.reading, values).with_context(cannot)?;
        Ok((size, Tensor::new(*label, &Device::Cpu)?))
    }

    /// Where image `index` lies.
    pub fn path(&self, index: usize) -> Option<&Path> {
        self.files.get(index).map(|(path, _)| path.as_path())
    }
}

/// Configures an [`ImageFolder`].
#[derive(Debug, Clone)]
pub struct ImageFolderBuilder {
    folder: PathBuf,
    reading: Reading,
}

impl ImageFolderBuilder {
    setters! {
        /// Resizes every image (bilinear), so that images of different sizes fit into one batch.
        resize(height: usize, width: usize) => reading.size = Some((height, width));
        /// Reads grey images of one channel instead of three.
        grey() => reading.channels = Channels::Grey;
        /// What stored whole numbers are multiplied with: 1 / 255 of 8 bits, 1 / 65535 of 16, or what a TIFF
        /// says itself, unless told otherwise. 0.0001 makes reflectance of Sentinel-2's numbers.
        scale(scale: f64) => reading.scale = Some(scale);
    }

    /// The data set.
    ///
    /// # Errors
    /// As [`ImageFolder::new`], or if a side is 0, the images would have more than 2²⁷ pixels, or the scale is
    /// not finite.
    pub fn build(self) -> Result<ImageFolder> {
        pixels::check(&self.reading)?;
        Ok(ImageFolder { reading: self.reading, ..ImageFolder::new(self.folder)? })
    }
}

impl Dataset for ImageFolder {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn get(&self, index: usize) -> Result<Example> {
        let mut values = Vec::new();
        let (size, target) = self.read(index, &mut values)?;
        Ok(Example { input: Tensor::from_vec(values, &size[..], &Device::Cpu)?, target })
    }

    fn batch(&self, indices: &[usize]) -> Result<Batch> {
        batch_of_images(indices, |index, values| self.read(index, values), &|_, _, _| Ok(()))
    }

    fn edited_batch(&self, indices: &[usize], edit: &EditImage<'_>) -> Option<Result<Batch>> {
        Some(batch_of_images(indices, |index, values| self.read(index, values), edit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{HARMLESS, folder_with, mutations, peak_memory, quietly, tried};

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, size) in [("water/b.png", 2), ("water/a.PNG", 2), ("forest/c.png", 3)] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let image = image::RgbImage::from_fn(size, size, |x, y| image::Rgb([x as u8 * 50, y as u8 * 50, 255]));
            image.save_with_format(path, image::ImageFormat::Png).unwrap();
        }
        fs::write(folder.path().join("water/notes.txt"), "no image").unwrap();
        fs::write(folder.path().join("water/.hidden.png"), "no image").unwrap();
        folder
    }

    #[test]
    fn images_are_found_in_order_and_read_upright() {
        let folder = folder();
        let images = ImageFolder::new(folder.path()).unwrap();
        assert_eq!(images.class_names(), ["forest", "water"]);
        assert_eq!(images.labels(), [0, 1, 1]);
        assert!(images.path(1).unwrap().ends_with("water/a.PNG"));
        let values = images.get(1).unwrap().input.to_vec3::<f32>().unwrap();
        // Red grows to the right, green downwards.
        assert_eq!(values[0], [[0.0, 50.0 / 255.0], [0.0, 50.0 / 255.0]]);
        assert_eq!(values[1], [[0.0, 0.0], [50.0 / 255.0, 50.0 / 255.0]]);
        assert_eq!(values[2], [[1.0, 1.0], [1.0, 1.0]]);
        assert!(images.batch(&[0, 1]).unwrap_err().to_string().contains("[3, 3, 3] of F32, of example 1 [3, 2, 2]"));
        let resized = ImageFolder::builder(folder.path()).resize(4, 5).build().unwrap();
        assert_eq!(resized.batch(&[0, 1]).unwrap().inputs.dims(), [2, 3, 4, 5]);
        let grey = ImageFolder::builder(folder.path()).grey().build().unwrap();
        assert_eq!(grey.get(0).unwrap().input.dims(), [1, 3, 3]);
    }

    #[test]
    fn what_is_wrong_with_a_folder_is_said() {
        let folder = folder();
        let empty = folder.path().join("water/empty");
        fs::create_dir(&empty).unwrap();
        assert!(ImageFolder::new(&empty).unwrap_err().to_string().contains("a sub-folder per class"));
        assert!(ImageFolder::new(folder.path().join("water")).unwrap_err().to_string().contains("has no .png"));
        assert!(ImageFolder::new(folder.path().join("nowhere")).unwrap_err().to_string().contains("cannot list"));
        fs::write(folder.path().join("forest/c.png"), "broken").unwrap();
        let images = ImageFolder::new(folder.path()).unwrap();
        let error = images.batch(&[0]).unwrap_err().to_string();
        assert!(error.contains("example 0 cannot be read") && error.contains("forest/c.png"), "{error}");
        assert!(ImageFolder::builder(folder.path()).resize(0, 1).build().is_err());
    }

    /// An image of 3×2 (height, width) whose red channel tells it apart.
    fn image(red: u8, format: image::ImageFormat) -> Vec<u8> {
        let image = image::RgbImage::from_fn(2, 3, |x, y| image::Rgb([red, x as u8 * 50, y as u8 * 50]));
        let mut out = std::io::Cursor::new(Vec::new());
        image.write_to(&mut out, format).unwrap();
        out.into_inner()
    }

    #[test]
    fn the_content_tells_how_an_image_is_read() {
        use image::ImageFormat::{Jpeg, Png};
        let folder =
            folder_with(&[("a/1.jpg", image(10, Png)), ("a/2.png", image(200, Jpeg)), ("a/3.JPEG", image(30, Png))]);
        let images = ImageFolder::new(folder.path()).unwrap();
        for (index, red) in [10.0, 200.0, 30.0].into_iter().enumerate() {
            let got = images.get(index).unwrap().input.to_vec3::<f32>().unwrap()[0][0][0] * 255.0;
            assert!((got - red).abs() < 12.0, "image {index}: {got}");
        }
    }

    /// As torchvision's `make_dataset` walks: `for root, _, names in sorted(os.walk(folder, followlinks=True))`,
    /// and `sorted(names)`; here what Python gives for this tree.
    #[test]
    fn nested_images_come_in_torchvisions_order() {
        let png = || image(1, image::ImageFormat::Png);
        let names = ["z.png", "sub/x.png", "a/x.png", "a-b/x.png", "a/deep/er/x.png", "x.png/y.png", "B.png"];
        let folder = folder_with(
            &names
                .map(|name| (format!("class/{name}"), png()))
                .each_ref()
                .map(|(name, content)| (name.as_str(), content.clone())),
        );
        fs::write(folder.path().join("class/sub/.hidden.png"), "").unwrap();
        fs::write(folder.path().join("class/sub/notes.txt"), "").unwrap();
        fs::write(folder.path().join("top.png"), png()).unwrap();
        let images = ImageFolder::new(folder.path()).unwrap();
        let class = folder.path().join("class");
        let got: Vec<_> = (0..images.len())
            .map(|i| images.path(i).unwrap().strip_prefix(&class).unwrap().to_str().unwrap())
            .collect();
        assert_eq!(got, ["B.png", "z.png", "a/x.png", "a-b/x.png", "a/deep/er/x.png", "sub/x.png", "x.png/y.png"]);
        assert_eq!(images.class_names(), ["class"]);
    }

    #[test]
    #[cfg(unix)]
    fn what_only_has_the_name_of_an_image_is_told() {
        let png = image(1, image::ImageFormat::Png);
        let refused = |prepare: &dyn Fn(&Path)| {
            let folder = folder_with(&[("a/1.png", png.clone())]);
            prepare(&folder.path().join("a"));
            ImageFolder::new(folder.path()).unwrap_err().to_string()
        };
        let pipe = |name: &'static str| {
            move |class: &Path| {
                assert!(std::process::Command::new("mkfifo").arg(class.join(name)).status().unwrap().success());
            }
        };
        assert!(refused(&pipe("2.png")).contains("2.png is no file, but a pipe"));
        let socket = |class: &Path| drop(std::os::unix::net::UnixListener::bind(class.join("2.jpg")).unwrap());
        assert!(refused(&socket).contains("2.jpg is no file"));
        let link = |to: &'static str, name: &'static str| {
            move |class: &Path| std::os::unix::fs::symlink(to, class.join(name)).unwrap()
        };
        assert!(refused(&link("nowhere", "2.png")).contains("cannot read"));
        assert!(refused(&link("/dev/zero", "2.png")).contains("2.png is no file"));
        assert!(refused(&link("..", "up")).contains("leads to a folder that the class has already"));
        assert!(
            refused(&|class| fs::write(class.join("2.bmp"), "BM").unwrap())
                .contains("2.bmp is neither PNG nor JPEG nor TIFF")
        );
        // A pipe of another name is nobody's business; one that takes a file's place later is.
        let folder = folder_with(&[("a/1.png", png.clone())]);
        pipe("log")(&folder.path().join("a"));
        let images = ImageFolder::new(folder.path()).unwrap();
        fs::remove_file(folder.path().join("a/1.png")).unwrap();
        pipe("1.png")(&folder.path().join("a"));
        assert!(images.get(0).unwrap_err().to_string().contains("1.png is no file"));
    }

    #[test]
    fn the_orientation_of_a_camera_is_not_applied() {
        let jpeg = image(100, image::ImageFormat::Jpeg);
        // EXIF: turned by a quarter.
        let exif =
            [&[0xff, 0xe1, 0, 34][..], b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"]
                .concat();
        let turned = [&jpeg[..2], &exif, &jpeg[2..]].concat();
        let folder = folder_with(&[("a/1.jpg", jpeg), ("a/2.jpg", turned)]);
        let images = ImageFolder::new(folder.path()).unwrap();
        let values = |index: usize| images.get(index).unwrap().input.to_vec3::<f32>().unwrap();
        assert_eq!(images.get(1).unwrap().input.dims(), [3, 3, 2]);
        assert_eq!(values(0), values(1));
    }

    #[test]
    fn absurd_sizes_are_refused() {
        let claims = |side: u32| {
            let mut png = image(1, image::ImageFormat::Png);
            png[16..24].copy_from_slice(&[side.to_be_bytes(), side.to_be_bytes()].concat());
            let crc = crc32fast::hash(&png[12..29]).to_be_bytes();
            png[29..33].copy_from_slice(&crc);
            png
        };
        let folder = folder_with(&[("a/1.png", claims(20_000)), ("a/2.png", claims(i32::MAX as u32))]);
        let images = ImageFolder::new(folder.path()).unwrap();
        let (error, memory) = peak_memory(|| images.get(0).unwrap_err().to_string());
        assert!(error.contains("1.png") && error.contains("at most 134217728 pixels, got 20000×20000"), "{error}");
        assert!(memory < 1 << 20, "{memory}");
        let (error, memory) = peak_memory(|| images.get(1).unwrap_err().to_string());
        assert!(error.contains("2.png") && memory < 1 << 20, "{error} {memory}");
        for (height, width) in [(usize::MAX, 1), (1 << 32, 1 << 32), ((1 << 32) + 1, 1), (1 << 14, 1 << 14)] {
            let error = ImageFolder::builder(folder.path()).resize(height, width).build().unwrap_err().to_string();
            assert!(error.contains("at most 134217728 pixels"), "{error}");
        }
    }

    #[test]
    fn damaged_images_are_read_or_refused() {
        use image::ImageFormat::{Jpeg, Png};
        let formats =
            if cfg!(feature = "samples") { vec![Png, Jpeg, image::ImageFormat::WebP] } else { vec![Png, Jpeg] };
        quietly(|| {
            for format in formats {
                let (mut whole, mut worst) = (0, 0);
                for (at, bytes) in mutations(21, &image(90, format), 100_000).enumerate() {
                    let content = &mut std::io::Cursor::new(&bytes);
                    let (result, memory) =
                        peak_memory(|| pixels::read_up_to(1 << 12, content, &Reading::default(), &mut Vec::new()));
                    assert!(memory < 4 << 20, "mutation {at} of {format:?} takes {memory} bytes");
                    (whole, worst) = (whole + usize::from(result.is_ok()), worst.max(memory));
                }
                assert!((100..90_000).contains(&whole), "{format:?}: {whole} read, {worst} bytes at most");
                tried(HARMLESS, "PNG, JPEG and WebP images, damaged", 100_000);
            }
        });
    }

    #[test]
    fn sixteen_bits_stay_sixteen() {
        use image::{ImageBuffer, Luma, Rgb};
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("a")).unwrap();
        let grey: ImageBuffer<Luma<u16>, _> = ImageBuffer::from_fn(2, 1, |x, _| Luma([1 + 40_000 * x as u16]));
        grey.save(folder.path().join("a/1.png")).unwrap();
        let color: ImageBuffer<Rgb<u16>, _> = ImageBuffer::from_fn(2, 1, |x, _| Rgb([x as u16, 300, 65_535]));
        color.save(folder.path().join("a/2.png")).unwrap();
        let values = |folder: &ImageFolder, index: usize| {
            folder.get(index).unwrap().input.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let images = ImageFolder::new(folder.path()).unwrap();
        let [dark, bright] = [1.0f32 / 65_535.0, 40_001.0 / 65_535.0];
        assert_eq!(values(&images, 0), [dark, bright, dark, bright, dark, bright]);
        assert_eq!(values(&images, 1), [0.0, dark, 300.0 / 65_535.0, 300.0 / 65_535.0, 1.0, 1.0]);
        let raw = ImageFolder::builder(folder.path()).grey().scale(1.0).build().unwrap();
        assert_eq!(values(&raw, 0), [1.0, 40_001.0]);
        assert!(ImageFolder::builder(folder.path()).scale(f64::NAN).build().is_err());
    }

    #[test]
    fn a_tiff_keeps_its_bands() {
        use crate::data::Scene;
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("a")).unwrap();
        let bands: Vec<f32> = (0..13 * 4 * 6).map(|i| i as f32 - 50.0).collect();
        let bands = Tensor::from_vec(bands, (13, 4, 6), &Device::Cpu).unwrap();
        let names: Vec<String> = (0..13).map(|i| format!("band {i}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        Scene::from_tensor(&bands, &names).unwrap().write(folder.path().join("a/1.tif")).unwrap();
        let image = ImageFolder::new(folder.path()).unwrap().get(0).unwrap().input;
        assert_eq!(image.to_vec3::<f32>().unwrap(), bands.to_vec3::<f32>().unwrap());
        // Twice the size and half of it: the mean of every band stays, negative ones too.
        for size in [(8, 12), (2, 3)] {
            let resized = ImageFolder::builder(folder.path()).resize(size.0, size.1).build().unwrap();
            let resized = resized.get(0).unwrap().input;
            assert_eq!(resized.dims(), [13, size.0, size.1]);
            let mean = |tensor: &Tensor| tensor.mean((1, 2)).unwrap().to_vec1::<f32>().unwrap();
            for (got, expected) in mean(&resized).iter().zip(mean(&bands)) {
                assert!((got - expected).abs() < 0.02, "{got} {expected}");
            }
        }
        let grey = ImageFolder::builder(folder.path()).grey().build().unwrap();
        assert!(grey.get(0).unwrap_err().to_string().contains("13 bands is not grey"));
    }
}
