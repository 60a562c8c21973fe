//! A striped destination as operators see it: once, with the sums of its stripes.
//!
//! Promise:  a destination of one shard stands as that shard told it. Numbers are added up, and so are
//!           limits, for each stripe has its share of them; the state is that of the stripe that is
//!           worst off. What each shard told is in `stripes`.

use std::collections::BTreeMap;

use serde_json::Map;
use serde_json::Value;

/// States from the best to the worst.
const STATES: [&str; 6] = ["open", "rate used up", "throttled", "probing", "backing off", "paused"];

/// One row for each destination, from the rows of all shards.
pub(super) fn merged(rows: Vec<Value>) -> Vec<Value> {
    let mut by_destination: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for row in rows {
        let destination = row["destination"].as_str().unwrap_or("").to_owned();
        by_destination.entry(destination).or_default().push(row);
    }
    by_destination.into_values().filter_map(merge).collect()
}

/// Those with the most mail first.
pub(super) fn largest_first(rows: &mut [Value]) {
    let weight = |row: &Value| {
        let number = |key: &str| row[key].as_u64().unwrap_or(0);
        (number("queued") + number("in_flight"), number("per_minute"))
    };
    rows.sort_by_key(|row| std::cmp::Reverse(weight(row)));
}

fn merge(stripes: Vec<Value>) -> Option<Value> {
    let badness = |row: &Value| STATES.iter().position(|state| row["state"] == *state);
    let worst = stripes.iter().max_by_key(|row| badness(row)).cloned()?;
    if stripes.len() == 1 {
        return Some(worst);
    }
    let mut whole = worst.as_object()?.clone();
    whole.remove("shard");
    for (key, value) in &mut whole {
        if key != "binding" {
            *value = sum(&stripes.iter().map(|row| &row[key.as_str()]).collect::<Vec<_>>(), value);
        }
    }
    if whole.get("last_error").is_none_or(Value::is_null) {
        let error = stripes.iter().map(|row| &row["last_error"]).find(|error| error.is_string());
        whole.insert("last_error".to_owned(), error.cloned().unwrap_or(Value::Null));
    }
    whole.insert("stripes".to_owned(), Value::Array(stripes));
    Some(Value::Object(whole))
}

/// What is no number stays as the worst stripe has it.
fn sum(parts: &[&Value], standing: &Value) -> Value {
    match standing {
        Value::Number(_) => parts.iter().filter_map(|part| part.as_u64()).sum::<u64>().into(),
        Value::Object(fields) => {
            let summed = fields.iter().map(|(key, value)| {
                let parts: Vec<&Value> = parts.iter().map(|part| &part[key.as_str()]).collect();
                (key.clone(), sum(&parts, value))
            });
            Value::Object(summed.collect::<Map<String, Value>>())
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(destination: &str, shard: u64, state: &str, queued: u64) -> Value {
        json!({
            "destination": destination, "name": "a", "shard": shard, "state": state, "queued": queued,
            "in_flight": 1, "per_minute": 30, "window": 5,
            "binding": { "kind": state, "until_ms": 7 },
            "connections": { "all": 2, "max": 5 }, "rates": { "minute": 10 },
            "last_error": (state == "open").then_some("450 later"),
        })
    }

    #[test]
    fn a_striped_destination_is_one_row_with_sums() {
        let rows = vec![
            row("a.test:25", 0, "open", 3),
            row("b.test:25", 0, "open", 4),
            row("a.test:25", 1, "paused", 5),
        ];
        let mut rows = merged(rows);
        largest_first(&mut rows);
        assert_eq!(rows.len(), 2);
        let (striped, plain) = (&rows[0], &rows[1]);
        assert_eq!(plain, &row("b.test:25", 0, "open", 4), "as its shard told it");
        assert_eq!(striped["queued"], 8);
        assert_eq!(striped["connections"], json!({ "all": 4, "max": 10 }));
        assert_eq!(striped["rates"], json!({ "minute": 20 }));
        assert_eq!(striped["binding"]["until_ms"], 7, "a time is no number to add");
        assert_eq!(striped["state"], "paused", "the worst");
        assert_eq!(striped["last_error"], "450 later");
        assert_eq!(striped["shard"], Value::Null);
        assert_eq!(striped["stripes"].as_array().map(Vec::len), Some(2));
    }
}
