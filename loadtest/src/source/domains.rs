//! Domains with weights: `gmail.test*50,yahoo.test*20`.

use crate::random::Random;
use crate::source::weights::Weights;

/// The maximum length of a DNS name.
const NAME_BYTES_MAX: usize = 253;

/// A mix of domains.
#[derive(Clone, Debug, PartialEq)]
pub struct Domains(Weights<Box<str>>);

impl Domains {
    pub fn parse(text: &str) -> Result<Domains, String> {
        Weights::parse(text, read_domain).map(Domains)
    }

    pub fn choose(&self, random: &mut Random) -> &str {
        self.0.choose(random.number())
    }
}

fn read_domain(text: &str) -> Result<Box<str>, String> {
    let is_good = |one: char| !one.is_whitespace() && !one.is_control() && !"@<>*".contains(one);
    match !text.is_empty() && text.len() <= NAME_BYTES_MAX && text.chars().all(is_good) {
        true => Ok(text.into()),
        false => {
            Err(format!("`{text}` is not a domain; write for example gmail.test*50,yahoo.test*20"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;
    use crate::random::chi_square;

    fn counts(domains: &Domains, names: [&str; 3]) -> [u64; 3] {
        let mut counts = [0; 3];
        for number in 0..20_000 {
            let drawn = domains.choose(&mut Random::new(3).of(Purpose::Recipient, number));
            counts[names.iter().position(|name| *name == drawn).expect("one of them")] += 1;
        }
        counts
    }

    #[test]
    fn domains_are_drawn_by_weight() {
        let list = Domains::parse("gmail.test*50,yahoo.test*30,t.test*20").expect("a mix");
        let found = counts(&list, ["gmail.test", "yahoo.test", "t.test"]);
        // 2 degrees of freedom: above 14 once in a thousand seeds.
        let far = chi_square(&found, &[10_000.0, 6_000.0, 4_000.0]);
        assert!(far < 14.0, "{far} {found:?}");
    }

    #[test]
    fn invalid_domains_are_refused() {
        for bad in ["", "a@b.test", "a b", "a.test*0", "a.test,,b.test"] {
            assert!(Domains::parse(bad).is_err(), "{bad}");
        }
    }
}
