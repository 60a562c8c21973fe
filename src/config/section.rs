//! How a section of keys is read, compared and explained.
//!
//! Promise:  `section!` makes, from one declaration, the struct, its reading from the file and the
//!           environment, its comparison at a reload and the table from which the manual is made.
//!
//! ```text
//! section! {
//!     /// The manual of the section.
//!     pub struct LimitsConfig at "limits" {
//!         /// The manual of the key.
//!         message_size: u64 = Is("'25MB'"), Live, 1024 => 1 << 36;
//!         ...
//! ```

use crate::config::fault::Place;
use crate::config::fault::Refusal;
use crate::config::file;
use crate::config::file::Plain;
use crate::config::file::Table;
use crate::config::file::Written;
use crate::config::host::Environment;
use crate::config::key::Key;
use crate::config::key::Reload;
use crate::config::key::SectionDoc;
use crate::config::key::Standard;
use crate::config::kind::Kind;
use crate::config::reading::Reading;
use crate::config::reading::find;

/// A struct made by `section!`.
pub trait Section: Clone + PartialEq {
    const DOC: SectionDoc;

    /// Reads the section; `None` only if a fault was noted.
    fn read(table: Option<&Table>, reading: &mut Reading<'_>) -> Option<Self>;

    /// The keys in which `new` differs.
    fn differences(&self, new: &Self) -> Vec<&'static Key>;

    /// `new`, except for the keys that need a restart.
    fn with_live(&self, new: &Self) -> Self;
}

/// The keys in which two configs differ, as paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Applied by a reload.
    pub live: Vec<&'static str>,
    /// Unchanged until a restart.
    pub needs_restart: Vec<&'static str>,
}

/// A field of `Config`: a section, or all occurrences of a repeated one.
pub trait Part: Sized {
    const DOC: SectionDoc;

    /// Reads it; `None` only if a fault was noted.
    fn read(reading: &mut Reading<'_>) -> Option<Self>;

    /// The value after a reload. Notes what changed.
    fn reload(&self, new: &Self, changes: &mut Changes) -> Self;
}

impl<T: Section> Part for T {
    const DOC: SectionDoc = T::DOC;

    fn read(reading: &mut Reading<'_>) -> Option<T> {
        let root = reading.root;
        let written = find(root, T::DOC.path);
        let table = written.and_then(Written::table);
        let place = written.map_or(Place::Unset, |written| written.place.clone());
        reading.within(T::DOC.path, place, |reading| T::read(table, reading))
    }

    fn reload(&self, new: &T, changes: &mut Changes) -> T {
        for key in self.differences(new) {
            match key.reload {
                Reload::Live => changes.live.push(key.path),
                Reload::Restart => changes.needs_restart.push(key.path),
            }
        }
        self.with_live(new)
    }
}

/// Without any occurrence there is one with the defaults, unless a key is required.
impl<T: Section> Part for Vec<T> {
    const DOC: SectionDoc = T::DOC;

    fn read(reading: &mut Reading<'_>) -> Option<Vec<T>> {
        let root = reading.root;
        let written = find(root, T::DOC.path).map_or(&[][..], Written::list);
        let required = |key: &Key| matches!(key.standard, Standard::Required(_));
        reading.number = 1;
        if written.is_empty() {
            if T::DOC.keys.iter().any(required) {
                return Some(Vec::new());
            }
            let read = |reading: &mut Reading<'_>| T::read(None, reading);
            return reading.within(T::DOC.path, Place::Unset, read).map(|one| vec![one]);
        }
        let mut list = Vec::with_capacity(written.len());
        for (place, value) in written.iter().enumerate() {
            reading.number = place + 1;
            let name = format!("{}[{}]", T::DOC.path, place + 1);
            let read = |reading: &mut Reading<'_>| T::read(value.table(), reading);
            list.extend(reading.within(&name, value.place.clone(), read));
        }
        Some(list)
    }

    /// A section with keys that need a restart stays unchanged here; `change` decides about it.
    fn reload(&self, new: &Vec<T>, changes: &mut Changes) -> Vec<T> {
        if T::DOC.keys.iter().any(|key| key.reload == Reload::Restart) {
            return self.clone();
        }
        if self != new {
            changes.live.push(T::DOC.path);
        }
        new.clone()
    }
}

/// Reads one key of a section: the value that is set, or else the default. A refused value is noted
/// and replaced by the default, so that the rest of the file can be checked.
pub fn read_key<K: Kind>(
    section: &SectionDoc,
    name: &str,
    table: Option<&Table>,
    reading: &mut Reading<'_>,
) -> Option<K> {
    let key = section.key(name).expect("`section!` lists each field as a key");
    let written = table.and_then(|table| table.find(name));
    if let Some(written) = written {
        let read = |reading: &mut Reading<'_>| K::read(written, key.bounds, reading);
        let value = reading.within(name, written.place.clone(), read);
        if value.is_some() {
            reading.note_origin(name, Some(written.plain.to_toml()), Some(written));
            return value;
        }
    }
    let text = match key.standard {
        Standard::Is(text) => text.to_owned(),
        Standard::Follows(_, _, text) => text(reading),
        Standard::Unset(_) => {
            reading.note_origin(name, None, None);
            return K::absent();
        }
        Standard::Required(example) => {
            let misspelt = !reading.is_clean(&format!("{}.{name}", reading.path()));
            if written.is_none() && !misspelt && !reading.torn {
                let hint = format!("write {name} = {}", example.replace('\'', "\""));
                let refusal = Refusal::new("is missing", hint);
                reading.within(name, Place::Unset, |reading| reading.refuse(refusal));
            }
            return None;
        }
    };
    let Ok(standard) = file::parse_value(&text) else {
        let refusal = Refusal::new(format!("has the invalid default {text}"), "set the key");
        reading.within(name, Place::Unset, |reading| reading.refuse(refusal));
        return None;
    };
    reading.note_origin(name, Some(standard.plain.to_toml()), None);
    reading.within(name, Place::Unset, |reading| K::read(&standard, key.bounds, reading))
}

/// A section in which no key is set.
pub fn standard<T: Section>() -> T {
    let (root, environment) = (Table::default(), Environment::default());
    let mut reading = Reading::new("", &root, "localhost".to_owned(), &environment);
    T::read(None, &mut reading).expect("the defaults are within their bounds")
}

/// The text of a key as set, or else its default; for defaults that are derived from it.
pub fn text_of(reading: &Reading<'_>, section: &SectionDoc, name: &str) -> String {
    let written = find(reading.root, section.path).and_then(Written::table);
    let written = written.and_then(|table| table.find(name));
    let standard = || match section.key(name).map(|key| key.standard) {
        Some(Standard::Is(text)) => file::parse_value(text).ok(),
        _ => None,
    };
    match written.cloned().or_else(standard).map(|value| value.plain) {
        Some(Plain::Text(text)) => text,
        _ => String::new(),
    }
}

/// Declares a section; see the head of this file.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        pub struct $section:ident at $path:literal $($repeated:ident)? {
            $(
                $(#[doc = $doc:literal])+
                $key:ident : $kind:ty = $standard:expr, $reload:ident $(, $low:expr => $high:expr)?;
            )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq)]
        pub struct $section {
            $( $(#[doc = $doc])+ pub $key: $kind, )+
        }

        impl $crate::config::section::Section for $section {
            const DOC: $crate::config::key::SectionDoc = $crate::config::key::SectionDoc {
                path: $path,
                about: concat!($($about, "\n"),+),
                repeated: section!(@repeated $($repeated)?),
                keys: &[$(
                    $crate::config::key::Key {
                        name: stringify!($key),
                        path: concat!($path, ".", stringify!($key)),
                        doc: concat!($($doc, "\n"),+),
                        standard: $standard,
                        reload: $crate::config::key::Reload::$reload,
                        bounds: section!(@bounds $($low, $high)?),
                        written: <$kind as $crate::config::kind::Kind>::written,
                        show: <$kind as $crate::config::kind::Kind>::show,
                        from_text: <$kind as $crate::config::kind::Kind>::from_text,
                    },
                )+],
            };

            fn read(
                table: Option<&$crate::config::file::Table>,
                reading: &mut $crate::config::reading::Reading<'_>,
            ) -> Option<Self> {
                let doc = &<Self as $crate::config::section::Section>::DOC;
                $(
                    let $key = $crate::config::section::read_key::<$kind>(
                        doc, stringify!($key), table, reading,
                    );
                )+
                Some($section { $($key: $key?,)+ })
            }

            fn differences(&self, new: &Self) -> Vec<&'static $crate::config::key::Key> {
                let doc = <Self as $crate::config::section::Section>::DOC;
                let mut names = Vec::new();
                $( if self.$key != new.$key { names.push(stringify!($key)); } )+
                names.into_iter().filter_map(|name| doc.key(name)).collect()
            }

            #[allow(unused_variables)] // where no key is live
            fn with_live(&self, new: &Self) -> Self {
                $section { $( $key: section!(@live $reload self.$key, new.$key), )+ }
            }
        }
    };
    (@repeated) => { false };
    (@repeated repeated) => { true };
    (@bounds) => { None };
    (@bounds $low:expr, $high:expr) => { Some(($low, $high)) };
    (@live Live $old:expr, $new:expr) => { $new.clone() };
    (@live Restart $old:expr, $new:expr) => { $old.clone() };
}

pub(crate) use section;
