//! How figures are printed.

/// Three to five digits, as many as the histograms have.
pub fn figure(value: f64) -> String {
    match value {
        100_000.0.. => grouped(value.round() as u64),
        100.0.. => format!("{value:.1}"),
        10.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Digits in groups of three.
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() * 2);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Three significant digits, grouped.
pub fn rounded(figure: f64) -> String {
    if figure == 0.0 {
        return "0".to_owned();
    }
    let digits = 2 - figure.abs().log10().floor() as i32;
    let scale = 10_f64.powi(digits);
    let rounded = (figure * scale).round() / scale;
    match usize::try_from(digits) {
        Ok(decimals) if decimals > 0 => format!("{rounded:.decimals$}"),
        _ => grouped(rounded as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_the_digits_that_were_measured() {
        for (value, expected) in [
            (0.0123, "0.012"),
            (12.345, "12.35"),
            (999.96, "1000.0"),
            (99_999.9, "99999.9"),
            (123_456.7, "123,457"),
        ] {
            assert_eq!(figure(value), expected);
        }
        for (value, expected) in [
            (11_437.2, "11,400"),
            (1_234_567.0, "1,230,000"),
            (999.4, "999"),
            (61.23, "61.2"),
            (0.0123, "0.0123"),
            (0.0, "0"),
        ] {
            assert_eq!(rounded(value), expected);
        }
    }
}
