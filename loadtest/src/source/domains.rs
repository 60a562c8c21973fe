//! Domains with weights: `gmail.test*50,yahoo.test*20`, or a file with one `domain weight` a line.

use std::fs;

use crate::source::random::Die;
use crate::source::random::Random;
use crate::source::weights::Weights;
use crate::source::weights::read_weight;

/// What of a name the DNS can hold.
const NAME_BYTES_MAX: usize = 253;

/// A mix of domains.
#[derive(Clone, Debug, PartialEq)]
pub struct Domains(Weights<Box<str>>);

impl Domains {
    /// A list, or `@FILE`, or what has a `/` in it and so is a file too.
    pub fn parse(text: &str) -> Result<Domains, String> {
        let path = text.strip_prefix('@').or_else(|| text.contains('/').then_some(text));
        match path {
            None => Weights::parse(text, read_domain).map(Domains),
            Some(path) => {
                let lines = fs::read_to_string(path).map_err(|cause| format!("{path}: {cause}"))?;
                Domains::read(&lines).map_err(|cause| format!("{path}: {cause}"))
            }
        }
    }

    /// `domain weight` lines. What stands behind `#` is a comment.
    fn read(text: &str) -> Result<Domains, String> {
        let mut mix = Vec::new();
        for (place, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let at = |cause: String| format!("line {}: {cause}", place + 1);
            match *line.split_whitespace().collect::<Vec<_>>() {
                [] => {}
                [domain] => mix.push((read_domain(domain).map_err(at)?, 1.0)),
                [domain, weight] => {
                    let weight = read_weight(weight).map_err(at)?;
                    mix.push((read_domain(domain).map_err(at)?, weight));
                }
                _ => return Err(at("write a domain and its weight".to_owned())),
            }
        }
        Weights::new(mix).map(Domains)
    }

    pub fn choose(&self, random: Random, die: Die, number: u64) -> &str {
        self.0.choose(random.roll(die, number))
    }
}

fn read_domain(text: &str) -> Result<Box<str>, String> {
    let is_good = |one: char| !one.is_whitespace() && !one.is_control() && !"@<>*".contains(one);
    match !text.is_empty() && text.len() <= NAME_BYTES_MAX && text.chars().all(is_good) {
        true => Ok(text.into()),
        false => Err(format!("`{text}` is no domain: write names, as gmail.test*50,yahoo.test*20")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::random::chi_square;

    fn counts(domains: &Domains, names: [&str; 3]) -> [u64; 3] {
        let mut counts = [0; 3];
        for number in 0..20_000 {
            let drawn = domains.choose(Random::new(3), Die::To, number);
            counts[names.iter().position(|name| *name == drawn).expect("one of them")] += 1;
        }
        counts
    }

    #[test]
    fn lists_and_lines_have_their_weights() {
        let list = Domains::parse("gmail.test*50,yahoo.test*30,t.test*20").expect("a mix");
        let lines = "# the big ones\ngmail.test 50\n\nyahoo.test\t30 # and\nt.test 20\n";
        assert_eq!(Domains::read(lines).as_ref(), Ok(&list));
        let found = counts(&list, ["gmail.test", "yahoo.test", "t.test"]);
        // 2 degrees of freedom: above 14 once in a thousand seeds.
        let far = chi_square(&found, &[10_000.0, 6_000.0, 4_000.0]);
        assert!(far < 14.0, "{far} {found:?}");
    }

    #[test]
    fn nonsense_is_told_with_its_place() {
        for bad in ["", "a@b.test", "a b", "a.test*0", "@/no/such/file", "a.test,,b.test"] {
            assert!(Domains::parse(bad).is_err(), "{bad}");
        }
        for (bad, place) in
            [("a.test\nb.test x", "line 2"), ("a b c", "line 1"), ("\n\nx@y", "line 3")]
        {
            let told = Domains::read(bad).expect_err(bad);
            assert!(told.starts_with(place), "{told}");
        }
        assert!(Domains::read("# nothing\n").is_err());
    }
}
