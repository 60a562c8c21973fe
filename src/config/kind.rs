//! Types of values, and how each is read.
//!
//! Promise:  a refused value is noted with what was found and what is expected; the reading continues.
//!           A `u64` is a size in bytes; other numbers are counts.

use std::fmt::Debug;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::config::fault::Place;
use crate::config::fault::Refusal;
use crate::config::fault::nearest;
use crate::config::file;
use crate::config::file::Plain;
use crate::config::file::Written;
use crate::config::reading::Reading;
use crate::config::units;

/// The smallest and the largest value of a key, in bytes, milliseconds or counts.
pub type Bounds = Option<(u64, u64)>;

/// The type of a key.
pub trait Kind: Sized + Clone + PartialEq + Debug {
    /// The type in words, as "duration, such as `\"5m\"`".
    fn written() -> String;

    /// Reads a value; `None` if it noted a fault.
    fn read(value: &Written, bounds: Bounds, reading: &mut Reading<'_>) -> Option<Self>;

    /// A bound in the unit of this type.
    fn show(bound: u64) -> String {
        bound.to_string()
    }

    /// The value of a key that is not set and has no default.
    fn absent() -> Option<Self> {
        None
    }

    /// The value of an environment variable as TOML would have it.
    fn from_text(text: &str) -> Result<Plain, Refusal> {
        Ok(Plain::Text(text.to_owned()))
    }
}

/// A type whose values are strings.
pub trait Spelled: Sized + Clone + PartialEq + Debug {
    /// The type in words.
    fn spelling() -> String;

    /// Reads a value, or says why it is refused.
    fn spell(text: &str) -> Result<Self, Refusal>;

    /// The hint for a value that is not a string.
    fn hint() -> &'static str {
        "put it in quotes"
    }
}

/// A type whose values are words.
pub trait Choice: Copy + PartialEq + Debug + 'static {
    const WORDS: &'static [(&'static str, Self)];

    fn as_str(self) -> &'static str {
        let word = Self::WORDS.iter().find(|(_, value)| *value == self);
        word.map_or("", |(word, _)| word)
    }
}

impl<T: Choice> Spelled for T {
    fn spelling() -> String {
        let words: Vec<String> = T::WORDS.iter().map(|(word, _)| format!("`\"{word}\"`")).collect();
        format!("one of {}", words.join(", "))
    }

    fn spell(text: &str) -> Result<T, Refusal> {
        choose(text, T::WORDS)
    }
}

impl<T: Spelled> Kind for T {
    fn written() -> String {
        T::spelling()
    }

    fn read(value: &Written, _: Bounds, reading: &mut Reading<'_>) -> Option<T> {
        match &value.plain {
            Plain::Text(text) => keep(T::spell(text), reading),
            _ => wrong_type(value, &T::spelling(), T::hint(), reading),
        }
    }
}

impl Kind for bool {
    fn written() -> String {
        "`true` or `false`".to_owned()
    }

    fn read(value: &Written, _: Bounds, reading: &mut Reading<'_>) -> Option<bool> {
        let hint = match &value.plain {
            Plain::Flag(flag) => return Some(*flag),
            Plain::Text(text) => match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" => "write true, without quotes",
                "false" | "no" | "off" => "write false, without quotes",
                _ => "",
            },
            _ => "",
        };
        wrong_type(value, &Self::written(), hint, reading)
    }

    fn from_text(text: &str) -> Result<Plain, Refusal> {
        Ok(text.parse().map_or_else(|_| Plain::Text(text.to_owned()), Plain::Flag))
    }
}

/// A number if it is one, else a text.
pub fn number_from(text: &str) -> Plain {
    text.parse().map_or_else(|_| Plain::Text(text.to_owned()), Plain::Whole)
}

impl Kind for Duration {
    fn written() -> String {
        "a duration, such as `\"5m\"`, `\"1h30m\"` or `\"250ms\"`".to_owned()
    }

    fn read(value: &Written, bounds: Bounds, reading: &mut Reading<'_>) -> Option<Duration> {
        let duration = match &value.plain {
            Plain::Text(text) => keep(units::parse_duration(text), reading)?,
            Plain::Whole(0) => Duration::ZERO,
            Plain::Whole(number) => {
                let hint = format!("add a unit, as \"{}s\"", number.unsigned_abs());
                return wrong_type(value, "a duration", &hint, reading);
            }
            _ => return wrong_type(value, &Self::written(), "", reading),
        };
        let millis = duration.as_millis() as u64;
        within(value, millis, bounds, Self::show, reading).then_some(duration)
    }

    fn show(bound: u64) -> String {
        units::show_duration(Duration::from_millis(bound))
    }
}

impl Kind for u64 {
    fn written() -> String {
        "a size, such as `\"25MB\"`, `\"64KiB\"` or `512` (bytes)".to_owned()
    }

    fn read(value: &Written, bounds: Bounds, reading: &mut Reading<'_>) -> Option<u64> {
        let bytes = match &value.plain {
            Plain::Text(text) => keep(units::parse_size(text), reading)?,
            Plain::Whole(number) => whole(value, *number, reading)?,
            _ => return wrong_type(value, &Self::written(), "", reading),
        };
        within(value, bytes, bounds, Self::show, reading).then_some(bytes)
    }

    fn show(bound: u64) -> String {
        units::show_size(bound)
    }
}

/// Whole numbers, within the bounds of the key or else of the type.
macro_rules! counts {
    ($($count:ty),+) => { $(
        impl Kind for $count {
            fn written() -> String {
                "a whole number".to_owned()
            }

            fn read(value: &Written, bounds: Bounds, reading: &mut Reading<'_>) -> Option<$count> {
                let number = match &value.plain {
                    Plain::Whole(number) => whole(value, *number, reading)?,
                    Plain::Text(text) if text.parse::<u64>().is_ok() => {
                        let hint = format!("write {text}, without quotes");
                        return wrong_type(value, &Self::written(), &hint, reading);
                    }
                    _ => return wrong_type(value, &Self::written(), "", reading),
                };
                let bounds = bounds.or(Some((0, <$count>::MAX as u64)));
                let fits = within(value, number, bounds, Self::show, reading);
                <$count>::try_from(number).ok().filter(|_| fits)
            }

            fn from_text(text: &str) -> Result<Plain, Refusal> {
                Ok(number_from(text))
            }
        }
    )+ };
}

counts!(u8, u16, u32, usize);

/// A key without a default.
impl<K: Kind> Kind for Option<K> {
    fn written() -> String {
        K::written()
    }

    fn read(value: &Written, bounds: Bounds, reading: &mut Reading<'_>) -> Option<Option<K>> {
        K::read(value, bounds, reading).map(Some)
    }

    fn show(bound: u64) -> String {
        K::show(bound)
    }

    fn absent() -> Option<Option<K>> {
        Some(None)
    }

    fn from_text(text: &str) -> Result<Plain, Refusal> {
        K::from_text(text)
    }
}

/// A list. A single value is read as a list of one. Each bad element is noted.
impl<K: Kind> Kind for Vec<K> {
    fn written() -> String {
        format!("a list; each element is {}", K::written())
    }

    fn read(value: &Written, bounds: Bounds, reading: &mut Reading<'_>) -> Option<Vec<K>> {
        let Plain::List(values) = &value.plain else {
            return K::read(value, bounds, reading).map(|one| vec![one]);
        };
        let mut list = Vec::with_capacity(values.len());
        for (place, value) in values.iter().enumerate() {
            let read = |reading: &mut Reading<'_>| K::read(value, bounds, reading);
            let name = format!("[{}]", place + 1);
            list.extend(reading.within(&name, value.place.clone(), read));
        }
        (list.len() == values.len()).then_some(list)
    }

    fn show(bound: u64) -> String {
        K::show(bound)
    }

    /// A TOML array, or elements separated by commas. An element such as `[::1]:25` has brackets too.
    fn from_text(text: &str) -> Result<Plain, Refusal> {
        let parts = || text.split(',').map(str::trim).filter(|part| !part.is_empty());
        if text.starts_with('[') {
            let is_closed = |part: &str| part.matches('[').count() == part.matches(']').count();
            match file::parse_value(text) {
                Ok(list) => return Ok(list.plain),
                Err(broken) if text.contains(['"', '\'']) || !parts().all(is_closed) => {
                    let hint = "write a TOML list, or elements without quotes, separated by commas";
                    return Err(Refusal::new(broken.what, hint));
                }
                Err(_) => {}
            }
        }
        let element = |part| Ok(Written { place: Place::Unset, plain: K::from_text(part)? });
        Ok(Plain::List(parts().map(element).collect::<Result<_, Refusal>>()?))
    }
}

impl Spelled for String {
    fn spelling() -> String {
        "a string".to_owned()
    }

    fn spell(text: &str) -> Result<String, Refusal> {
        match text {
            "" => Err(Refusal::new("is empty", "remove the key, or set a value")),
            _ if text.contains(char::is_control) => {
                Err(Refusal::new("holds a control character", "write it on one line"))
            }
            _ => Ok(text.to_owned()),
        }
    }
}

impl Spelled for PathBuf {
    fn spelling() -> String {
        "a path".to_owned()
    }

    fn spell(text: &str) -> Result<PathBuf, Refusal> {
        String::spell(text).map(PathBuf::from)
    }
}

impl Spelled for SocketAddr {
    fn spelling() -> String {
        "an IP address with port, such as `\"127.0.0.1:25\"` or `\"[::1]:25\"`".to_owned()
    }

    fn spell(text: &str) -> Result<SocketAddr, Refusal> {
        if let Ok(address) = text.parse() {
            return Ok(address);
        }
        let hint = match text.rsplit_once(':') {
            _ if text.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6()) => {
                format!("add a port, as \"[{text}]:25\"")
            }
            _ if text.parse::<IpAddr>().is_ok() => format!("add a port, as \"{text}:25\""),
            Some(("" | "*", port)) => {
                format!("for all addresses write [\"0.0.0.0:{port}\", \"[::]:{port}\"]")
            }
            Some((host, port)) if host.parse::<IpAddr>().is_ok_and(|a| a.is_ipv6()) => {
                format!("write an IPv6 address in brackets, as \"[{host}]:{port}\"")
            }
            Some(("localhost", port)) => {
                format!("names are not resolved; write \"127.0.0.1:{port}\"")
            }
            _ => "write it as \"127.0.0.1:25\" or \"[::1]:25\"".to_owned(),
        };
        Err(Refusal::new(format!("\"{text}\" is not an IP address with port"), hint))
    }
}

impl Spelled for IpNet {
    fn spelling() -> String {
        "a network or an address, such as `\"10.0.0.0/8\"` or `\"::1\"`".to_owned()
    }

    fn spell(text: &str) -> Result<IpNet, Refusal> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(address.into());
        }
        let Ok(network) = text.parse::<IpNet>() else {
            let hint = "write it as \"10.0.0.0/8\", \"2001:db8::/32\" or \"192.0.2.1\"";
            return Err(Refusal::new(format!("\"{text}\" is not a network"), hint));
        };
        if network != network.trunc() {
            let what = format!("\"{text}\" has bits set after its prefix");
            let address = network.addr();
            let hint = format!("write \"{}\" for the network or \"{address}\"", network.trunc());
            return Err(Refusal::new(what, hint));
        }
        Ok(network)
    }
}

/// Notes that a value has the wrong type.
pub fn wrong_type<T>(
    value: &Written,
    expected: &str,
    hint: &str,
    reading: &mut Reading<'_>,
) -> Option<T> {
    let found = value.shown();
    let what = format!("{found} is not {expected}").replace('`', "");
    reading.refuse(Refusal::new(what, hint));
    None
}

/// The choice named `text`, or why there is none.
pub fn choose<T: Copy>(text: &str, choices: &[(&'static str, T)]) -> Result<T, Refusal> {
    if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == text) {
        return Ok(*choice);
    }
    let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
    let hint = match nearest(text, names.iter().copied()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => "choose one of them".to_owned(),
    };
    Err(Refusal::new(format!("\"{text}\" is not one of {}", names.join(", ")), hint))
}

fn keep<T>(value: Result<T, Refusal>, reading: &mut Reading<'_>) -> Option<T> {
    value.map_err(|refusal| reading.refuse(refusal)).ok()
}

fn whole(value: &Written, number: i64, reading: &mut Reading<'_>) -> Option<u64> {
    let positive = u64::try_from(number).ok();
    if positive.is_none() {
        reading.refuse(Refusal::new(format!("{} is negative", value.shown()), ""));
    }
    positive
}

fn within(
    value: &Written,
    number: u64,
    bounds: Bounds,
    show: fn(u64) -> String,
    reading: &mut Reading<'_>,
) -> bool {
    let Some((low, high)) = bounds else { return true };
    let hint = match number {
        _ if number < low => format!("the minimum is {}", show(low)),
        _ if number > high => format!("the maximum is {}", show(high)),
        _ => return true,
    };
    reading.refuse(Refusal::new(format!("{} is out of range", value.shown()), hint));
    false
}
