//! Every dependency's licence, checked against the list of deny.toml. `cargo deny` says more where it is installed;
//! this says the main thing everywhere.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// One line for each package whose SPDX expression cannot be met from the list; empty when all can.
pub fn faults(root: &Path) -> String {
    let allowed = allowed(root);
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform"])
        .arg(format!("{}-unknown-linux-gnu", std::env::consts::ARCH))
        .current_dir(root)
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let used: Vec<&str> = metadata["resolve"]["nodes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|n| n["id"].as_str())
        .collect();
    assert!(used.len() > 10, "cargo metadata resolved only {} packages", used.len());
    let mut faults = String::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        if !used.iter().any(|id| Some(*id) == package["id"].as_str()) {
            continue;
        }
        let licence = package["license"].as_str().unwrap_or("none given");
        if !meets(licence, &allowed) {
            let _ = writeln!(
                faults,
                "{} {}: licence `{licence}` is not in deny.toml: choose another crate, or argue for it there",
                package["name"].as_str().unwrap_or("?"),
                package["version"].as_str().unwrap_or("?")
            );
        }
    }
    faults
}

fn allowed(root: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(root.join("deny.toml")).expect("deny.toml is there");
    let deny: toml::Table = text.parse().expect("deny.toml is TOML");
    let list = deny["licenses"]["allow"].as_array().expect("deny.toml has licenses.allow");
    list.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

/// An SPDX expression: `OR` needs one side, `AND` both, `WITH` belongs to its licence. `/` is the old `OR`.
fn meets(expression: &str, allowed: &[String]) -> bool {
    let spaced =
        expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ").replace(" WITH ", "+WITH+");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = either(&tokens, &mut at, allowed);
    met && at == tokens.len()
}

fn either(tokens: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut met = both(tokens, at, allowed);
    while tokens.get(*at) == Some(&"OR") {
        *at += 1;
        met |= both(tokens, at, allowed);
    }
    met
}

fn both(tokens: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut met = one(tokens, at, allowed);
    while tokens.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(tokens, at, allowed);
    }
    met
}

fn one(tokens: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let Some(token) = tokens.get(*at) else { return false };
    *at += 1;
    if *token == "(" {
        let met = either(tokens, at, allowed);
        *at += 1;
        return met;
    }
    let name = token.replace("+WITH+", " WITH ");
    allowed.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::meets;

    #[test]
    fn expressions() {
        let allowed = ["MIT", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned);
        for good in [
            "MIT",
            "GPL-2.0 OR MIT",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0/MIT",
            "Apache-2.0 WITH LLVM-exception",
        ] {
            assert!(meets(good, &allowed), "{good}");
        }
        for bad in ["GPL-2.0", "MIT AND GPL-2.0", "", "none given", "Apache-2.0"] {
            assert!(!meets(bad, &allowed), "{bad}");
        }
    }
}
