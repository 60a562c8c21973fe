//! The shape of an open load: a rate, a ramp or steps give the time at which each message is due.
//!
//! Promise:  times are computed from the number of a message and not as sums of pauses, so that errors
//!           do not add up.

use std::time::Duration;

use clap::Args;

use crate::flags::read_positive_rate;
use crate::flags::read_rate;
use crate::flags::read_time;

#[derive(Args, Clone, Debug, Default)]
pub struct ShapeOptions {
    /// Send at this rate, however fast the server answers. Latencies count from the time at which a
    /// message was due.
    #[arg(long, value_name = "PER-SECOND", value_parser = read_flat, group = "schedule")]
    pub rate: Option<Shape>,
    /// Change the rate linearly, as in 100..5000:60s. The run ends with the ramp; with -m or --duration
    /// it continues at the last rate.
    #[arg(long, value_name = "FROM..TO:TIME", value_parser = read_ramp, group = "schedule")]
    pub ramp: Option<Shape>,
    /// Use one rate after the other, with figures for each: 1000x10s,2000x10s,4000x10s.
    #[arg(long, value_name = "RATExTIME,...", value_parser = read_steps, group = "schedule")]
    pub steps: Option<Shape>,
    /// Send at random times with the given mean rate (a Poisson process), like many independent
    /// senders.
    #[arg(long, requires = "schedule")]
    pub poisson: bool,
    /// Stop after this time: 60s, 5m, 500ms.
    #[arg(long, value_name = "TIME", value_parser = read_time)]
    pub duration: Option<Duration>,
}

impl ShapeOptions {
    /// `None`: a closed loop. `goes_on`: continue at the last rate.
    pub fn shape(&self, goes_on: bool) -> Option<Shape> {
        let shape = self.rate.as_ref().or(self.ramp.as_ref()).or(self.steps.as_ref());
        let mut shape = shape.cloned()?;
        if let Some(last) = shape.0.last().copied()
            && goes_on
            && last.to > 0.0
            && last.seconds.is_finite()
        {
            shape.0.push(Stretch::flat(last.to, f64::INFINITY));
        }
        Some(shape)
    }
}

/// A part of a shape with a linear rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stretch {
    pub from: f64,
    pub to: f64,
    /// Infinite for an endless part.
    pub seconds: f64,
}

impl Stretch {
    fn flat(rate: f64, seconds: f64) -> Stretch {
        Stretch { from: rate, to: rate, seconds }
    }

    /// The growth of the rate per second.
    fn slope(&self) -> f64 {
        if self.from == self.to { 0.0 } else { (self.to - self.from) / self.seconds }
    }

    /// Messages due after this many seconds.
    fn count_at(&self, seconds: f64) -> f64 {
        self.from * seconds + self.slope() * seconds * seconds / 2.0
    }

    fn count(&self) -> f64 {
        self.count_at(self.seconds)
    }

    /// The inverse of `count_at`, in the form of the quadratic formula without cancellation.
    fn seconds_at(&self, count: f64) -> f64 {
        if count <= 0.0 {
            return 0.0;
        }
        let root = (self.from * self.from + 2.0 * self.slope() * count).max(0.0).sqrt();
        (2.0 * count / (self.from + root)).min(self.seconds)
    }
}

/// One stretch after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape(Vec<Stretch>);

impl Shape {
    pub fn stretches(&self) -> &[Stretch] {
        &self.0
    }

    /// The total duration, possibly infinite.
    pub fn seconds(&self) -> f64 {
        self.0.iter().map(|one| one.seconds).sum()
    }

    /// Messages due before this many seconds.
    pub fn count_at(&self, mut seconds: f64) -> f64 {
        let mut count = 0.0;
        for one in &self.0 {
            let own = seconds.min(one.seconds);
            count += one.count_at(own);
            seconds -= own;
            if seconds <= 0.0 {
                break;
            }
        }
        count
    }

    /// The stretch and the second of the run at which this many messages are due.
    pub fn at(&self, count: f64) -> (usize, f64) {
        let (mut before, mut began) = (0.0, 0.0);
        let last = self.0.len() - 1;
        for (place, one) in self.0.iter().enumerate() {
            if place == last || count < before + one.count() {
                return (place, began + one.seconds_at(count - before));
            }
            before += one.count();
            began += one.seconds;
        }
        (last, began)
    }
}

/// `5000`
pub fn read_flat(text: &str) -> Result<Shape, String> {
    Ok(Shape(vec![Stretch::flat(read_positive_rate(text)?, f64::INFINITY)]))
}

/// `100..5000:60s`
fn read_ramp(text: &str) -> Result<Shape, String> {
    let hint = "write FROM..TO:TIME, for example 100..5000:60s";
    let parts = text.rsplit_once(':').and_then(|(rates, time)| {
        let (from, to) = rates.split_once("..")?;
        Some((from, to, time))
    });
    let (from, to, time) = parts.ok_or_else(|| format!("`{text}` is not a ramp: {hint}"))?;
    let ramp = Stretch {
        from: read_rate(from)?,
        to: read_rate(to)?,
        seconds: read_time(time)?.as_secs_f64(),
    };
    match ramp.from + ramp.to > 0.0 {
        true => Ok(Shape(vec![ramp])),
        false => Err(format!("`{text}`: both rates are 0")),
    }
}

/// `1000x10s,2000x10s`
pub fn read_steps(text: &str) -> Result<Shape, String> {
    let read = |step: &str| {
        let hint = "write RATExTIME, for example 1000x10s,2000x10s";
        let (rate, time) =
            step.split_once('x').ok_or_else(|| format!("`{step}` is not a step: {hint}"))?;
        Ok(Stretch::flat(read_rate(rate)?, read_time(time)?.as_secs_f64()))
    };
    let steps: Vec<Stretch> = text.split(',').map(read).collect::<Result<_, String>>()?;
    match steps.iter().any(|one| one.from > 0.0) {
        true => Ok(Shape(steps)),
        false => Err(format!("`{text}`: all rates are 0")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn going_on(ramp: &str) -> Shape {
        let ramp = Some(read_ramp(ramp).expect("a ramp"));
        ShapeOptions { ramp, ..ShapeOptions::default() }.shape(true).expect("an open loop")
    }

    #[test]
    fn at_a_rate_messages_are_evenly_apart() {
        let shape = read_flat("8").expect("a rate");
        for number in 0..1000 {
            assert_eq!(shape.at(f64::from(number)), (0, f64::from(number) / 8.0));
        }
        assert_eq!((shape.count_at(3.0), shape.seconds()), (24.0, f64::INFINITY));
    }

    #[test]
    fn a_ramp_sends_the_integral_of_its_rate() {
        // From 0 to 200 a second in 10 s: 10 t^2 by second t.
        let up = read_ramp("0..200:10s").expect("a ramp");
        for (count, second) in [(0.0, 0.0), (10.0, 1.0), (90.0, 3.0), (250.0, 5.0), (1000.0, 10.0)]
        {
            assert_eq!(up.at(count), (0, second), "{count}");
            assert_eq!(up.count_at(second), count, "{second}");
        }
        // From 300 to 100 in 10 s: 300 t - 10 t^2.
        let down = read_ramp("300..100:10s").expect("a ramp");
        for (count, second) in [(0.0, 0.0), (290.0, 1.0), (1250.0, 5.0), (2000.0, 10.0)] {
            assert_eq!(down.at(count), (0, second), "{count}");
        }
        // To a stand.
        let down = read_ramp("200..0:10s").expect("a ramp");
        assert_eq!(down.at(1000.0), (0, 10.0));
        let on = going_on("0..200:10s");
        assert_eq!((on.at(1000.0), on.at(1100.0)), ((1, 10.0), (1, 10.5)));
        assert_eq!(on.count_at(11.0), 1200.0);
    }

    #[test]
    fn steps_follow_each_other() {
        let steps = read_steps("10x2s,0x1s,40x500ms").expect("steps");
        let rows = [
            (0.0, (0, 0.0)),
            (19.0, (0, 1.9)),
            (20.0, (2, 3.0)),
            (30.0, (2, 3.25)),
            (39.0, (2, 3.475)),
        ];
        for (count, expected) in rows {
            assert_eq!(steps.at(count), expected, "{count}");
        }
        assert_eq!((steps.seconds(), steps.count_at(3.5), steps.count_at(9.0)), (3.5, 40.0, 40.0));
    }

    #[test]
    fn invalid_shapes_are_refused() {
        for bad in ["", "1..2", "1:10s", "0..0:10s", "1..2:0s", "1..2:10y", "-1..2:1s", "a..2:1s"] {
            assert!(read_ramp(bad).is_err(), "{bad}");
        }
        for bad in ["", "10", "10x", "x10s", "0x10s", "10x10s,", "inf x1s", "nanx1s"] {
            assert!(read_steps(bad).is_err(), "{bad}");
        }
    }
}
