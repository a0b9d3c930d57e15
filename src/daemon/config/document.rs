//! A TOML document whose every complaint names the file, the line and the key.
//!
//! A table is opened with the list of keys it may hold. Keys outside the list are errors before anything else is
//! looked at, so that a misspelt key is reported as such and not as a missing one.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::nearest;
use super::units::UnitError;

/// What is wrong with a configuration file, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    pub file: PathBuf,
    /// From 1; `None` when the problem is not at a place of the file.
    pub line: Option<usize>,
    /// Dotted path of the key, empty when no key is meant.
    pub key: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.problem)
    }
}

impl std::error::Error for ConfigError {}

/// The text of a file, to turn places into lines.
pub(super) struct Source<'a> {
    pub(super) file: &'a Path,
    pub(super) text: &'a str,
}

impl Source<'_> {
    pub(super) fn error(&self, at: Option<usize>, key: &str, problem: impl Into<String>) -> ConfigError {
        let line = at.map(|at| 1 + self.text.bytes().take(at).filter(|byte| *byte == b'\n').count());
        ConfigError { file: self.file.to_owned(), line, key: key.to_owned(), problem: problem.into() }
    }
}

/// One table of the document.
pub(super) struct Section<'a> {
    source: &'a Source<'a>,
    path: String,
    at: usize,
    table: &'a DeTable<'a>,
}

/// One value of a table.
pub(super) struct Item<'a> {
    source: &'a Source<'a>,
    path: String,
    at: usize,
    value: &'a DeValue<'a>,
}

impl<'a> Section<'a> {
    pub(super) fn root(
        source: &'a Source<'a>,
        table: &'a DeTable<'a>,
        keys: &[&str],
    ) -> Result<Self, ConfigError> {
        let section = Self { source, path: String::new(), at: 0, table };
        section.only(keys)?;
        Ok(section)
    }

    /// Refuses keys that are not in the list.
    pub(super) fn only(&self, keys: &[&str]) -> Result<(), ConfigError> {
        for key in self.table.keys() {
            let name: &str = key.get_ref();
            if !keys.contains(&name) {
                let problem = unknown_key(name, keys, self.path.is_empty());
                return Err(self.source.error(Some(key.span().start), &self.join(name), problem));
            }
        }
        Ok(())
    }

    fn join(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// An error about this table as a whole.
    pub(super) fn error(&self, problem: impl Into<String>) -> ConfigError {
        self.source.error((!self.path.is_empty()).then_some(self.at), &self.path, problem)
    }

    pub(super) fn names(&self) -> Vec<&'a str> {
        self.table.keys().map(|key| key.get_ref().as_ref()).collect()
    }

    pub(super) fn get(&self, key: &str) -> Option<Item<'a>> {
        let (name, value) = self.table.iter().find(|(name, _)| name.get_ref() == key)?;
        let at = name.span().start;
        Some(Item { source: self.source, path: self.join(key), at, value: value.get_ref() })
    }

    pub(super) fn require(&self, key: &str, example: &str) -> Result<Item<'a>, ConfigError> {
        self.get(key).ok_or_else(|| self.error(format!("key {key:?} is missing; write {key} = {example}")))
    }
}

impl<'a> Item<'a> {
    pub(super) fn error(&self, problem: impl Into<String>) -> ConfigError {
        self.source.error(Some(self.at), &self.path, problem)
    }

    fn wrong_kind(&self, wanted: &str) -> ConfigError {
        let found = match self.value {
            DeValue::String(text) => format!("the string {text:?}"),
            DeValue::Integer(number) => format!("the number {number}"),
            DeValue::Float(_) => "a fraction".to_owned(),
            DeValue::Boolean(value) => format!("{value}"),
            DeValue::Datetime(_) => "a date".to_owned(),
            DeValue::Array(_) => "a list".to_owned(),
            DeValue::Table(_) => "a table".to_owned(),
        };
        self.error(format!("{wanted} is wanted here, not {found}"))
    }

    pub(super) fn table(self, keys: &[&str]) -> Result<Section<'a>, ConfigError> {
        let section = self.open_table()?;
        section.only(keys)?;
        Ok(section)
    }

    pub(super) fn is_table(&self) -> bool {
        matches!(self.value, DeValue::Table(_))
    }

    /// A table whose keys are names chosen by the user.
    pub(super) fn open_table(&self) -> Result<Section<'a>, ConfigError> {
        let DeValue::Table(table) = self.value else {
            return Err(self.wrong_kind(&format!("a table [{}]", self.path)));
        };
        Ok(Section { source: self.source, path: self.path.clone(), at: self.at, table })
    }

    pub(super) fn string(&self) -> Result<&'a str, ConfigError> {
        match self.value {
            DeValue::String(text) => Ok(text.as_ref()),
            _ => Err(self.wrong_kind("a string in quotes")),
        }
    }

    pub(super) fn integer(&self, allowed: Range<u64>) -> Result<u64, ConfigError> {
        let DeValue::Integer(number) = self.value else {
            return Err(self.wrong_kind("a whole number"));
        };
        let value = u64::from_str_radix(&number.as_str().replace('_', ""), number.radix());
        value.ok().filter(|value| allowed.contains(value)).ok_or_else(|| {
            self.error(format!("{number} is outside {}..={}", allowed.start, allowed.end.saturating_sub(1)))
        })
    }

    pub(super) fn boolean(&self) -> Result<bool, ConfigError> {
        match self.value {
            DeValue::Boolean(value) => Ok(*value),
            _ => Err(self.wrong_kind("true or false")),
        }
    }

    pub(super) fn list(&self) -> Result<Vec<Item<'a>>, ConfigError> {
        let DeValue::Array(values) = self.value else {
            return Err(self.wrong_kind("a list in [ ]"));
        };
        let item = |(index, value): (usize, &'a toml::Spanned<DeValue<'a>>)| Item {
            source: self.source,
            path: format!("{}[{index}]", self.path),
            at: value.span().start,
            value: value.get_ref(),
        };
        Ok(values.iter().enumerate().map(item).collect())
    }

    /// Parses a string with a function that knows what it may look like.
    pub(super) fn parse<T>(
        &self,
        parse: impl FnOnce(&str) -> Result<T, UnitError>,
    ) -> Result<T, ConfigError> {
        parse(self.string()?).map_err(|error| self.error(error.0))
    }
}

fn unknown_key(name: &str, keys: &[&str], section: bool) -> String {
    let what = if section { "unknown section or key" } else { "unknown key" };
    match nearest(name, keys) {
        Some(key) => format!("{what}; did you mean {key:?}?"),
        None => format!("{what}; the keys here are {}", keys.join(", ")),
    }
}
