//! Which variables a name or a pattern means.

use crate::error::{Error, Result};

/// Whether `pattern` means the variable `name`: its whole name, or a beginning of it that ends before
/// a dot. `*` stands for any letters, dots among them.
///
/// So `layer1` means `layer1.0.weight`, `*.bias` every bias, `*norm*` what belongs to a norm, and
/// the empty pattern everything.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let ends = name.match_indices('.').map(|(dot, _)| dot).chain([name.len()]);
    pattern.is_empty() || ends.into_iter().any(|end| is_like(pattern.as_bytes(), &name.as_bytes()[..end]))
}

/// Whether the whole of `text` is like `pattern`, in which `*` stands for any letters.
pub(crate) fn is_like(pattern: &[u8], text: &[u8]) -> bool {
    // Where the last `*` was, and what it has taken so far: the only place to come back to.
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(letter) if *letter == text[t] => (p, t) = (p + 1, t + 1),
            _ => match &mut star {
                Some((place, taken)) => {
                    *taken += 1;
                    (p, t) = (*place + 1, *taken);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|letter| *letter == b'*')
}

/// A change of names: what is like a pattern with `*` becomes like another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Renaming {
    from: String,
    to: String,
}

impl Renaming {
    /// A renaming of names, or of beginnings that end before a dot; every `*` of `from` is one of `to`.
    pub(crate) fn new(from: &str, to: &str) -> Result<Self> {
        let stars = |text: &str| text.matches('*').count();
        if from.is_empty() || to.is_empty() || stars(from) != stars(to) {
            return Err(Error::argument(
                "rename",
                "two names with the same number of `*`",
                format!("`{from}` and `{to}`"),
            ));
        }
        Ok(Self { from: from.to_owned(), to: to.to_owned() })
    }

    /// The new name, if it is meant: by the longest beginning that is like the pattern.
    pub(crate) fn apply(&self, name: &str) -> Option<String> {
        let ends = name.match_indices('.').map(|(dot, _)| dot).chain([name.len()]);
        ends.collect::<Vec<_>>().into_iter().rev().find_map(|end| {
            let mut taken = captured(&self.from, &name[..end])?.into_iter();
            let mut renamed = String::new();
            for (i, part) in self.to.split('*').enumerate() {
                renamed.push_str(if i > 0 { taken.next()? } else { "" });
                renamed.push_str(part);
            }
            Some(renamed + &name[end..])
        })
    }
}

/// What each `*` of `pattern` stands for in `text`, the first ones for as little as possible.
fn captured<'a>(pattern: &str, text: &'a str) -> Option<Vec<&'a str>> {
    let Some((literal, rest)) = pattern.split_once('*') else { return (pattern == text).then(Vec::new) };
    let text = text.strip_prefix(literal)?;
    let starts = text.char_indices().map(|(start, _)| start).chain([text.len()]);
    starts.into_iter().find_map(|start| {
        let mut taken = vec![&text[..start]];
        taken.extend(captured(rest, &text[start..])?);
        Some(taken)
    })
}

#[cfg(test)]
mod tests {
    use super::{Renaming, matches};

    #[test]
    fn names_prefixes_and_stars() {
        for (pattern, name, expected) in [
            ("", "fc.weight", true),
            ("fc", "fc", true),
            ("fc", "fc.weight", true),
            ("fc", "fc1.weight", false),
            ("fc.weight", "fc.weight", true),
            ("fc.weight.data", "fc.weight", false),
            ("*.bias", "a.b.bias", true),
            ("*.bias", "bias", false),
            ("*bias", "bias", true),
            ("*.bias", "a.bias_hh", false),
            ("layer.*.norm", "layer.3.norm.weight", true),
            ("layer.*.norm", "layer.3.other.weight", false),
            ("*norm*", "vit.layernorm_before.weight", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("*", "anything.at.all", true),
            ("é*", "é.weight", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn renamings_take_over_what_the_stars_stand_for() {
        for (from, to, name, expected) in [
            ("layers", "encoder.layer", "layers.0.weight", Some("encoder.layer.0.weight")),
            ("layers.*.fc1", "layer.*.dense", "layers.10.fc1.bias", Some("layer.10.dense.bias")),
            ("*.gamma", "*.weight", "a.b.gamma", Some("a.b.weight")),
            ("*.gamma", "*.weight", "a.gamma.x", Some("a.weight.x")),
            ("a.*.b.*", "*-*", "a.x.b.y.z", Some("x-y.z")),
            ("head", "fc", "header.weight", None),
            ("é.*", "e.*", "é.ü", Some("e.ü")),
        ] {
            let renamed = Renaming::new(from, to).unwrap().apply(name);
            assert_eq!(renamed.as_deref(), expected, "{from} {to} {name}");
        }
        assert!(Renaming::new("a.*", "b").is_err() && Renaming::new("", "b").is_err());
    }
}
