//! What a key is, and how a section of keys is read, compared and explained.
//!
//! Promise:  `section!` makes, from one declaration, the struct as meant, its reading from the file,
//!           its comparison at a reload and the table from which the manual is made.
//!
//! ```text
//! section! {
//!     /// What the section is about.
//!     pub struct LimitsConfig at "limits" {
//!         /// The manual of the key.
//!         message_size: u64 = Is("'25MB'"), Live, 1024 => 1 << 36;
//!         ...
//! ```

use crate::config::file::Table;
use crate::config::file::Written;
use crate::config::kind::Bounds;
use crate::config::reading::Reading;
use crate::config::reading::find;

/// Whether a running server takes a changed key from a reloaded file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    Live,
    Restart,
}

/// What holds when a key is not written. Texts are TOML, with single quotes.
#[derive(Clone, Copy, Debug)]
pub enum Standard {
    Is(&'static str),
    /// Follows from the machine or from other keys: how, in words, an example, and the value.
    Follows(&'static str, &'static str, fn(&Reading<'_>) -> String),
    /// Nothing; with an example of what may be written.
    Unset(&'static str),
    /// It must be written; with an example.
    Required(&'static str),
}

/// One key as the manual sees it.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    pub name: &'static str,
    /// Name with its section, as `limits.message_size`.
    pub path: &'static str,
    pub doc: &'static str,
    pub standard: Standard,
    pub reload: Reload,
    pub bounds: Bounds,
    /// How a value is written, in words.
    pub written: fn() -> String,
    /// How a bound is shown in the unit of the key.
    pub show: fn(u64) -> String,
}

/// One section as the manual sees it.
#[derive(Clone, Copy, Debug)]
pub struct SectionDoc {
    pub path: &'static str,
    pub about: &'static str,
    /// Whether it may be written several times, as `[[path]]`.
    pub repeated: bool,
    pub keys: &'static [Key],
}

impl SectionDoc {
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

/// A struct that `section!` has made.
pub trait Section: Clone + PartialEq {
    const DOC: SectionDoc;

    /// Reads what is written of it; none only if a fault was noted.
    fn read(table: Option<&Table>, reading: &mut Reading<'_>) -> Option<Self>;

    /// The keys in which `new` differs.
    fn differences(&self, new: &Self) -> Vec<&'static Key>;

    /// `new`, with the keys that need a restart left as they are.
    fn with_live(&self, new: &Self) -> Self;
}

/// What differs between two configs, as paths of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Taken over by a reload.
    pub live: Vec<&'static str>,
    /// Left as it was until a restart.
    pub needs_restart: Vec<&'static str>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.live.is_empty() && self.needs_restart.is_empty()
    }
}

/// A field of `Config`: a section, or all of a repeated one.
pub trait Part: Sized {
    const DOC: SectionDoc;

    /// Reads what the file says of it; none only if a fault was noted.
    fn read(reading: &mut Reading<'_>) -> Option<Self>;

    /// What a running server has after a reload, noting what changed.
    fn reload(&self, new: &Self, changes: &mut Changes) -> Self;
}

impl<T: Section> Part for T {
    const DOC: SectionDoc = T::DOC;

    fn read(reading: &mut Reading<'_>) -> Option<T> {
        let root = reading.root;
        let written = find(root, T::DOC.path);
        let table = written.and_then(Written::table);
        let line = written.map(|written| written.line);
        reading.within(T::DOC.path, line, |reading| T::read(table, reading))
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

/// If none is written there is one with the defaults, unless a key must be written.
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
            return reading.within(T::DOC.path, None, |r| T::read(None, r)).map(|one| vec![one]);
        }
        let mut list = Vec::with_capacity(written.len());
        for (place, value) in written.iter().enumerate() {
            reading.number = place + 1;
            let name = format!("{}[{}]", T::DOC.path, place + 1);
            let read = |reading: &mut Reading<'_>| T::read(value.table(), reading);
            list.extend(reading.within(&name, Some(value.line), read));
        }
        Some(list)
    }

    /// Sections of which a key needs a restart stay as they are: what becomes of them, `change` says.
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

        impl $crate::config::key::Section for $section {
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
                    },
                )+],
            };

            fn read(
                table: Option<&$crate::config::file::Table>,
                reading: &mut $crate::config::reading::Reading<'_>,
            ) -> Option<Self> {
                let doc = &<Self as $crate::config::key::Section>::DOC;
                $(
                    let $key = $crate::config::reading::read_key::<$kind>(
                        doc, stringify!($key), table, reading,
                    );
                )+
                Some($section { $($key: $key?,)+ })
            }

            fn differences(&self, new: &Self) -> Vec<&'static $crate::config::key::Key> {
                let doc = <Self as $crate::config::key::Section>::DOC;
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
