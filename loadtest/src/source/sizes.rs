//! Body sizes: `4096`, `1k-100k`, weighted mixes of these such as `4k*80,64k-100k*20`, and
//! `lognormal:p50=8k,p99=200k`.
//!
//! Units:    k, M and G are powers of 1,024.
//! Bounds:   `SIZE_MAX`; larger draws of `lognormal` are cut to it.

use crate::random::LogNormal;
use crate::random::Purpose;
use crate::random::Random;
use crate::source::weights::Weights;

/// Servers accept far less.
const SIZE_MAX: u64 = 4 << 30;

/// A distribution of sizes.
#[derive(Clone, Debug, PartialEq)]
pub enum Sizes {
    /// Ranges with weights. From the first to the second all sizes are equally likely.
    Mix(Weights<(u64, u64)>),
    LogNormal(LogNormal),
}

impl Sizes {
    pub fn parse(text: &str) -> Result<Sizes, String> {
        match text.strip_prefix("lognormal:") {
            Some(points) => read_log_normal(points).map(Sizes::LogNormal),
            None => Weights::parse(text, read_range).map(Sizes::Mix),
        }
    }

    pub fn fixed(size: u64) -> Sizes {
        Sizes::Mix(Weights::new([((size, size), 1.0)]).expect("one value with a weight"))
    }

    /// The size of a message.
    pub fn of(&self, random: &Random, number: u64) -> u64 {
        let mut random = random.of(Purpose::Size, number);
        match self {
            Sizes::Mix(ranges) => {
                let (least, most) = ranges.choose(random.number());
                least + (random.fraction() * (most - least + 1) as f64) as u64
            }
            Sizes::LogNormal(spread) => (spread.draw(&mut random).round() as u64).min(SIZE_MAX),
        }
    }
}

/// `1k`, or `1k-100k`.
fn read_range(text: &str) -> Result<(u64, u64), String> {
    let Some((least, most)) = text.split_once('-') else {
        return read_size(text).map(|size| (size, size));
    };
    let range = (read_size(least)?, read_size(most)?);
    match range.0 <= range.1 {
        true => Ok(range),
        false => Err(format!("`{text}` is reversed: write the smaller size first")),
    }
}

/// `p50=8k,p99=200k`
fn read_log_normal(text: &str) -> Result<LogNormal, String> {
    let points = text.strip_prefix("p50=").and_then(|rest| rest.split_once(",p99="));
    let (half, most) =
        points.ok_or_else(|| format!("`{text}`: write for example lognormal:p50=8k,p99=200k"))?;
    let (half, most) = (read_size(half)?, read_size(most)?);
    match 0 < half && half <= most {
        true => Ok(LogNormal::new(half as f64, most as f64)),
        false => Err(format!("`{text}`: p50 must be more than 0 and at most p99")),
    }
}

/// A number with an optional k, M or G.
fn read_size(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1 << 10),
        Some((at, 'm' | 'M')) => (&text[..at], 1 << 20),
        Some((at, 'g' | 'G')) => (&text[..at], 1 << 30),
        _ => (text, 1),
    };
    let size = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(unit));
    match size {
        Some(size) if size <= SIZE_MAX => Ok(size),
        Some(_) => Err(format!("`{text}` is too large: the maximum is 4G")),
        None => Err(format!("`{text}` is not a size; write for example 4096, 64k or 1M")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::chi_square;

    const DRAWS: u64 = 100_000;

    fn draws(text: &str) -> Vec<u64> {
        let sizes = Sizes::parse(text).expect("it is valid");
        (0..DRAWS).map(|number| sizes.of(&Random::new(1), number)).collect()
    }

    #[test]
    fn sizes_are_read() {
        for (text, size) in
            [("0", 0), ("4096", 4096), ("8k", 8192), ("1M", 1 << 20), ("4g", 4 << 30)]
        {
            assert_eq!(Sizes::parse(text), Ok(Sizes::fixed(size)), "{text}");
        }
        for bad in [
            "",
            "x",
            "4kb",
            "-1",
            "5G",
            "9k-1k",
            "lognormal:p50=8k",
            "lognormal:p50=8k,p99=1k",
            "lognormal:p50=0,p99=1k",
            "lognormal:p50=1k,p99=8k,p100=9k",
            "4k*0",
            "4k*80,",
            "4k*80,lognormal:p50=8k,p99=9k",
        ] {
            assert!(Sizes::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_range_is_drawn_evenly_to_its_ends() {
        let mut counts = vec![0; 10];
        draws("11-20").iter().for_each(|size| counts[*size as usize - 11] += 1);
        // 9 degrees of freedom: above 28 once in a thousand seeds.
        let far = chi_square(&counts, &[DRAWS as f64 / 10.0; 10]);
        assert!(far < 28.0, "{far} {counts:?}");
    }

    #[test]
    fn a_mix_has_its_weights() {
        let drawn = draws("4k*80,64k*15,1M-2M*5");
        let is = |least: u64, most: u64| {
            drawn.iter().filter(|size| (least..=most).contains(*size)).count() as u64
        };
        let counts = [is(4096, 4096), is(65_536, 65_536), is(1 << 20, 2 << 20)];
        let all = DRAWS as f64;
        // 2 degrees of freedom: above 14 once in a thousand seeds.
        let far = chi_square(&counts, &[all * 0.8, all * 0.15, all * 0.05]);
        assert!(far < 14.0, "{far} {counts:?}");
        assert_eq!(counts.iter().sum::<u64>(), DRAWS, "and nothing else");
    }

    #[test]
    fn a_log_normal_passes_through_its_points() {
        let mut drawn = draws("lognormal:p50=8k,p99=200k");
        drawn.sort_unstable();
        for (place, expected) in [(DRAWS / 2, 8192.0), (DRAWS * 99 / 100, 204_800.0)] {
            let found = drawn[place as usize] as f64;
            assert!((found / expected - 1.0).abs() < 0.05, "{place}: {found}");
        }
    }
}
