//! Values with weights, such as domains: `gmail.test*50,yahoo.test*20`.

/// Weights are stored in thousandths.
const UNIT: f64 = 1000.0;
const WEIGHT_MAX: f64 = 1e12;
/// The maximum length of a DNS name.
const NAME_BYTES_MAX: usize = 253;

/// A mix of domains.
pub type Domains = Weights<Box<str>>;

pub fn read_domains(text: &str) -> Result<Domains, String> {
    Weights::parse(text, |name| {
        let is_good =
            |one: char| !one.is_whitespace() && !one.is_control() && !"@<>*".contains(one);
        match !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.chars().all(is_good) {
            true => Ok(name.into()),
            false => {
                Err(format!("`{name}` is not a domain; write for example a.test*50,b.test*20"))
            }
        }
    })
}

/// At least one value.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights<T> {
    values: Vec<T>,
    /// The sum of the weights up to and including each value.
    sums: Vec<u64>,
}

impl<T> Weights<T> {
    pub fn new(weighted: impl IntoIterator<Item = (T, f64)>) -> Result<Weights<T>, String> {
        let (mut values, mut sums, mut sum) = (Vec::new(), Vec::new(), 0_u64);
        for (value, weight) in weighted {
            if !(1.0 / UNIT..=WEIGHT_MAX).contains(&weight) {
                return Err(format!("{weight} is not a weight: weights are from 0.001 to 1e12"));
            }
            sum = sum
                .checked_add((weight * UNIT).round() as u64)
                .ok_or("the sum of the weights is too large")?;
            values.push(value);
            sums.push(sum);
        }
        match values.is_empty() {
            true => Err("the list is empty".to_owned()),
            false => Ok(Weights { values, sums }),
        }
    }

    /// `one*50,other*20`. The default weight is 1.
    pub fn parse(
        text: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Weights<T>, String> {
        let parts = text.split(',').map(|part| {
            let (value, weight) = match part.rsplit_once('*') {
                Some((value, weight)) => (value, read_weight(weight)?),
                None => (part, 1.0),
            };
            Ok((read(value)?, weight))
        });
        Weights::new(parts.collect::<Result<Vec<_>, String>>()?)
    }

    /// The value for a random number.
    pub fn choose(&self, roll: u64) -> &T {
        let sum = self.sums.last().copied().unwrap_or(1);
        // The upper half of the product is the number scaled to the sum.
        let place = ((u128::from(roll) * u128::from(sum)) >> 64) as u64;
        &self.values[self.sums.partition_point(|one| *one <= place)]
    }
}

fn read_weight(text: &str) -> Result<f64, String> {
    let weight = text.parse::<f64>().ok().filter(|weight| weight.is_finite());
    weight.ok_or_else(|| format!("`{text}` is not a weight; write a number, as in value*20"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_has_its_share_of_all_numbers() {
        let weights = Weights::parse("a*1,b*2,c", |text| Ok(text.to_owned())).expect("a mix");
        let quarter = 1_u64 << 62;
        for (roll, expected) in [
            (0, "a"),
            (quarter - 1, "a"),
            (quarter, "b"),
            (3 * quarter - 1, "b"),
            (3 * quarter, "c"),
            (u64::MAX, "c"),
        ] {
            assert_eq!(weights.choose(roll), expected, "{roll}");
        }
    }

    #[test]
    fn invalid_weights_are_refused() {
        let read = |text: &str| Weights::parse(text, |value| Ok(value.to_owned()));
        for bad in ["a*0", "a*-1", "a*nan", "a*inf", "a*1e13", "a*", "a*b"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(Weights::<u8>::new([]).is_err());
        for bad in ["", "a@b.test", "a b", "a.test*0", "a.test,,b.test"] {
            assert!(read_domains(bad).is_err(), "{bad}");
        }
    }
}
