//! Which repository of the hub, and which version of it.

use super::cache::{plain, stays_below};
use super::client::escape;
use crate::error::{Error, Result};

/// What a repository holds, as the hub tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Model,
    Dataset,
}

/// A repository and a version of it: a branch, a tag or a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub kind: Kind,
    pub name: String,
    pub revision: String,
}

impl Address {
    /// The newest version.
    pub fn new(kind: Kind, name: impl Into<String>) -> Self {
        Self { kind, name: name.into(), revision: "main".to_owned() }
    }

    /// An error unless name and revision are those of a repository: they become parts of paths and of
    /// addresses. The hub's oldest models have no owner.
    pub fn check(&self) -> Result<()> {
        let ordinary = |part: &str| plain(part) && part.len() <= 96;
        let named = match self.name.split_once('/') {
            Some((owner, name)) => ordinary(owner) && ordinary(name),
            None => self.kind == Kind::Model && ordinary(&self.name),
        };
        if !named {
            return Err(Error::argument("repository", "`owner/name`", format!("{:?}", self.name)));
        }
        match stays_below(&self.revision) {
            true => Ok(()),
            false => {
                let expected = "a branch (`main`, `refs/pr/1`), a tag or a commit";
                Err(Error::argument("revision", expected, format!("{:?}", self.revision)))
            }
        }
    }

    /// Whether the revision is a commit, which never moves.
    pub fn is_commit(&self) -> bool {
        self.revision.len() == 40 && self.revision.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    }

    /// The folder in the hub's cache.
    pub fn folder(&self) -> String {
        let kind = match self.kind {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        };
        format!("{kind}--{}", self.name.replace('/', "--"))
    }

    /// Where the hub lists the files.
    pub fn listing(&self) -> String {
        let kind = match self.kind {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        };
        format!("/api/{kind}/{}/revision/{}", self.name, self.escaped_revision())
    }

    /// Where the hub has a file.
    pub fn file(&self, file: &str) -> String {
        let kind = match self.kind {
            Kind::Model => "",
            Kind::Dataset => "/datasets",
        };
        format!("{kind}/{}/resolve/{}/{}", self.name, self.escaped_revision(), escape(file))
    }

    /// One part of a path, whatever is in it.
    fn escaped_revision(&self) -> String {
        escape(&self.revision).replace('/', "%2F")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_hub() {
        let set = Address { revision: "refs/convert/parquet".to_owned(), ..Address::new(Kind::Dataset, "a/b") };
        assert_eq!(set.folder(), "datasets--a--b");
        assert_eq!(set.listing(), "/api/datasets/a/b/revision/refs%2Fconvert%2Fparquet");
        assert_eq!(set.file("c d/e.parquet"), "/datasets/a/b/resolve/refs%2Fconvert%2Fparquet/c%20d/e.parquet");
        let model = Address::new(Kind::Model, "a/b");
        assert_eq!(
            (model.folder().as_str(), model.listing().as_str()),
            ("models--a--b", "/api/models/a/b/revision/main")
        );
        assert_eq!(model.file("config.json"), "/a/b/resolve/main/config.json");
        assert!(!model.is_commit());
        assert!(Address { revision: "0123456789".repeat(4), ..model }.is_commit());
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let revision = |revision: &str| Address { revision: revision.to_owned(), ..Address::new(Kind::Model, "a/b") };
        for good in ["main", "v1.0", "refs/pr/1", "0123abc"] {
            revision(good).check().unwrap();
        }
        for bad in ["", "../main", "a//b", "/main", "a\\b", "a:b"] {
            assert!(revision(bad).check().unwrap_err().to_string().contains("`revision`"), "{bad:?}");
        }
        Address::new(Kind::Model, "gpt2").check().unwrap();
        for bad in ["", "..", "a/..", "../b", "a/b/c", "a b/c", "/a", "a/"] {
            assert!(Address::new(Kind::Model, bad).check().is_err(), "{bad:?}");
        }
        let text = Address::new(Kind::Dataset, "mnist").check().unwrap_err().to_string();
        assert!(text.contains("`repository`: expected `owner/name`"), "{text}");
    }
}
