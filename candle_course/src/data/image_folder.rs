//! Images in folders named by class.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use image::imageops::FilterType;

use crate::data::{Dataset, Example};
use crate::error::{Context, Error, Result};

/// PNG and JPEG files, one folder per class, read when they are asked for.
///
/// ```text
/// tiles/forest/a.png   tiles/forest/b.jpg   tiles/water/a.png
/// ```
///
/// Classes are numbered in alphabetical order of their folders, files come in alphabetical order,
/// so the numbering is the same everywhere. `inputs`: `[3, H, W]` (or `[1, H, W]`, see
/// [`ImageFolderBuilder::grey`]), f32 in `[0, 1]`; `targets`: u32.
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
    size: Option<(usize, usize)>,
    grey: bool,
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

impl ImageFolder {
    /// The images below `folder`.
    ///
    /// # Errors
    /// If the folder cannot be read, has no sub-folders, or one of them has no images.
    pub fn new(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let mut files = Vec::new();
        let mut class_names = Vec::new();
        for class in sorted(folder)?.into_iter().filter(|path| path.is_dir()) {
            let before = files.len();
            for file in sorted(&class)? {
                let extension = file.extension().map(|extension| extension.to_string_lossy().to_lowercase());
                if extension.is_some_and(|extension| ["png", "jpg", "jpeg"].contains(&extension.as_str())) {
                    files.push((file, class_names.len() as u32));
                }
            }
            if files.len() == before {
                return Err(Error::data(format!("{} has no .png, .jpg or .jpeg files", class.display())));
            }
            class_names.push(class.file_name().unwrap_or_default().to_string_lossy().into_owned());
        }
        if class_names.is_empty() {
            return Err(Error::data(format!("{}: expected a sub-folder per class, got none", folder.display())));
        }
        Ok(Self { files: Arc::new(files), class_names: Arc::new(class_names), size: None, grey: false })
    }

    /// The images below `folder`, as they are, unless told otherwise.
    pub fn builder(folder: impl AsRef<Path>) -> ImageFolderBuilder {
        ImageFolderBuilder { folder: folder.as_ref().to_owned(), size: None, grey: false }
    }

    /// The name of every class, in order of the targets.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// The class of every image, without reading any.
    pub fn labels(&self) -> Vec<u32> {
        self.files.iter().map(|(_, label)| *label).collect()
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
    size: Option<(usize, usize)>,
    grey: bool,
}

impl ImageFolderBuilder {
    /// Resizes every image (bilinear), so that images of different sizes fit into one batch.
    #[must_use]
    pub fn resize(mut self, height: usize, width: usize) -> Self {
        self.size = Some((height, width));
        self
    }

    /// Reads grey images of one channel instead of three.
    #[must_use]
    pub fn grey(mut self) -> Self {
        self.grey = true;
        self
    }

    /// The data set.
    ///
    /// # Errors
    /// As [`ImageFolder::new`], or if a side is 0.
    pub fn build(self) -> Result<ImageFolder> {
        if let Some((height, width)) = self.size
            && (height == 0 || width == 0)
        {
            return Err(Error::argument("height, width", "at least 1 each", format!("{height} and {width}")));
        }
        Ok(ImageFolder { size: self.size, grey: self.grey, ..ImageFolder::new(self.folder)? })
    }
}

impl Dataset for ImageFolder {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn get(&self, index: usize) -> Result<Example> {
        let (path, label) = self
            .files
            .get(index)
            .ok_or_else(|| Error::argument("index", format!("less than {}", self.len()), index))?;
        let image = image::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        let image = match self.size {
            Some((h, w)) if (image.height() as usize, image.width() as usize) != (h, w) => {
                image.resize_exact(w as u32, h as u32, FilterType::Triangle)
            }
            _ => image,
        };
        let (h, w) = (image.height() as usize, image.width() as usize);
        let (bytes, c) = if self.grey { (image.into_luma8().into_raw(), 1) } else { (image.into_rgb8().into_raw(), 3) };
        let mut values = vec![0f32; c * h * w];
        for (pixel, channels) in bytes.chunks_exact(c).enumerate() {
            for (channel, &byte) in channels.iter().enumerate() {
                values[channel * h * w + pixel] = f32::from(byte) / 255.0;
            }
        }
        Ok(Example {
            input: Tensor::from_vec(values, (c, h, w), &Device::Cpu)?,
            target: Tensor::new(*label, &Device::Cpu)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
