//! Words that stand for quantities ("2s", "10GiB"), and the distance between two words.

use std::time::Duration;

/// Why a word is not the quantity that is wanted; says what would be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnitError(pub String);

/// A duration: a whole number and one of `ms`, `s`, `m`, `h`.
pub fn duration(text: &str) -> Result<Duration, UnitError> {
    let wrong = || {
        UnitError(format!("{text:?} is not a duration; write a number and a unit, like \"500ms\" or \"2s\""))
    };
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(wrong)
}

/// A size in bytes: a whole number and one of `B`, `KiB`, `MiB`, `GiB`, `TiB` (1024) or `kB`, `MB`, `GB`, `TB` (1000).
pub fn size(text: &str) -> Result<u64, UnitError> {
    let wrong = || {
        UnitError(format!("{text:?} is not a size; write a number and a unit, like \"64MiB\" or \"10GiB\""))
    };
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let bytes: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(bytes).ok_or_else(wrong)
}

fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number = text[..digits].parse().ok()?;
    Some((number, text[digits..].trim_start()))
}

/// Bytes as a person reads them: `10.0 GiB`.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut scaled = bytes as f64;
    let mut unit = 0;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{scaled:.1} {}", UNITS[unit]) }
}

/// Seconds as a person reads them: `45 s`, `3 min 10 s`, `2 h 43 min`.
pub fn human_seconds(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// Insertions, deletions, replacements and swaps of neighbours that turn one word into the other.
pub fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_have_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2 s"), Ok(Duration::from_secs(2)));
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert_eq!(size("1 TB"), Ok(1_000_000_000_000));
        for wrong in ["", "2", "s", "-1s", "2 days", "1.5s", "99999999999999999999h", "18446744073709551615h"]
        {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "10", "GiB", "10Gb", "99999999999TiB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn people_read_scaled_numbers() {
        assert_eq!(human_bytes(1023), "1023 B");
        assert_eq!(human_bytes(10 << 30), "10.0 GiB");
        assert_eq!(human_seconds(190), "3 min 10 s");
        assert_eq!(human_seconds(9_780), "2 h 43 min");
    }

    #[test]
    fn distance_counts_slips_of_the_finger() {
        assert_eq!(edit_distance("portals", "portals"), 0);
        assert_eq!(edit_distance("portal", "portals"), 1);
        assert_eq!(edit_distance("prot", "port"), 1);
        assert_eq!(edit_distance("", "abc"), 3);
    }
}
