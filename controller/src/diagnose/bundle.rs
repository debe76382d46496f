//! A bundle for somebody who helps: what is wished, what was seen, what is wrong, what the latest run did. Secrets are
//! taken out before anything is written, and what is not in it is said in it.

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use std::io::Write as _;

/// The folder in the archive; by it the archive is known.
pub const FOLDER: &str = "vsgpu-bundle";
pub const FLEET: &str = "fleet.yaml";
pub const FACTS: &str = "facts.json";

/// What never is in a bundle.
const NEVER: [&str; 4] = [
    "private keys, certificates and client configuration tokens: no bundle has them",
    "passwords, and user names in addresses of proxies: taken out of every text",
    "the logs of hosts and guests: only lines that speak for a known cause are in the facts",
    "NVIDIA's packages: only their names and sums are in the fleet file and the facts",
];

/// A text without what nobody else may read: user and password in addresses, values of keys that are called so, blocks of
/// PEM, and long runs of base64, which tokens are.
pub fn redacted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_pem = false;
    for line in text.split_inclusive('\n') {
        if line.contains("-----BEGIN ") {
            in_pem = true;
            out += "(a PEM block was taken out)\n";
        }
        if !in_pem {
            out += &of_line(line);
        }
        if line.contains("-----END ") {
            in_pem = false;
        }
    }
    out
}

const SECRET: [&str; 6] = ["password", "passwd", "secret", "passphrase", "authorization", "api-key"];
/// Characters of base64 in a row that are taken for a token; SHA-256 sums have 64.
const TOKEN: usize = 100;

fn of_line(line: &str) -> String {
    let lower = line.to_lowercase();
    if let Some(at) = SECRET.iter().filter_map(|word| lower.find(word).map(|at| at + word.len())).min() {
        // What stands behind the key, up to the end of the line: a value may have blanks.
        if let Some(sign) = line[at..].find([':', '=']) {
            let keep = at + sign + 1;
            let end = if line.ends_with('\n') { "\n" } else { "" };
            return format!("{} (taken out){end}", &line[..keep]);
        }
    }
    let mut out = String::new();
    let mut rest = line;
    // `http://user:password@host`.
    while let Some(at) = rest.find("://") {
        let (head, tail) = rest.split_at(at + 3);
        out += head;
        let end = tail
            .find(|c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\'' | '?' | ','))
            .unwrap_or(tail.len());
        match tail[..end].rfind('@') {
            Some(user) => {
                out += "(taken out)";
                rest = &tail[user..];
            }
            None => rest = tail,
        }
    }
    out += rest;
    let is_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '_' | '-' | '.');
    let long = out
        .split(|c: char| !is_token(c))
        .filter(|run| run.len() >= TOKEN)
        .map(String::from)
        .collect::<Vec<_>>();
    long.iter().fold(out, |text, run| text.replace(run, "(taken out)"))
}

/// The same of a document: it stays one.
fn redacted_value(value: &mut Value) {
    match value {
        Value::String(text) => *text = redacted(text),
        Value::Array(list) => list.iter_mut().for_each(redacted_value),
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                let lower = key.to_lowercase();
                match SECRET.iter().any(|word| lower.contains(word))
                    && (value.is_string() || value.is_array())
                {
                    true => *value = "(taken out)".into(),
                    false => redacted_value(value),
                }
            }
        }
        _ => {}
    }
}

/// One file of a bundle.
pub enum Part {
    Text(String),
    Document(Value),
}

impl Part {
    fn shown(self) -> String {
        match self {
            Self::Text(text) => redacted(&text),
            Self::Document(mut value) => {
                redacted_value(&mut value);
                format!("{value:#}\n")
            }
        }
    }
}

/// The archive: texts by name, redacted, with a page that says what is in it and what is not.
///
/// # Errors
/// It cannot be made, which only lack of memory brings.
pub fn archive(parts: Vec<(&str, Part)>, about: &str, left_out: &[String]) -> std::io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(GzEncoder::new(vec![], Compression::default()));
    let mut add = |name: &str, text: &str| {
        let mut header = tar::Header::new_ustar();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        tar.append_data(&mut header, format!("{FOLDER}/{name}"), text.as_bytes())
    };
    let names: Vec<&str> = parts.iter().map(|(name, _)| *name).collect();
    let not: Vec<String> = NEVER.iter().map(|s| (*s).to_string()).chain(left_out.iter().cloned()).collect();
    let page = format!(
        "{about}\n\nIn it: {}.\n\nNot in it:\n{}\n\nRead it with `vsgpu diagnose --bundle FILE`.\n",
        names.join(", "),
        not.iter().map(|line| format!("- {line}")).collect::<Vec<_>>().join("\n")
    );
    add("README", &page)?;
    for (name, part) in parts {
        add(name, &part.shown())?;
    }
    let mut gzip = tar.into_inner()?;
    gzip.flush()?;
    gzip.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_taken_out_and_the_rest_is_left() {
        for (text, kept) in [
            ("proxy: http://ada:geheim@proxy.lab:3128/x\n", "proxy: http://(taken out)@proxy.lab:3128/x\n"),
            ("  password: geheim und so\n", "  password: (taken out)\n"),
            ("{\"api-key\": \"geheim\"}", "{\"api-key\": (taken out)"),
            ("a: https://mirror.lab/b?c=d@e\n", "a: https://mirror.lab/b?c=d@e\n"),
            (
                "-----BEGIN PRIVATE KEY-----\ngeheim\n-----END PRIVATE KEY-----\nafter\n",
                "(a PEM block was taken out)\nafter\n",
            ),
            ("plain line\n", "plain line\n"),
        ] {
            assert_eq!(redacted(text), kept);
        }
        let token = format!("token: {}\n", "eyJhbGciOiJSUzI1NiJ9".repeat(10));
        assert_eq!(redacted(&token), "token: (taken out)\n");
        let sum = format!("sha256: {}\n", "0f".repeat(32));
        assert_eq!(redacted(&sum), sum);
    }

    #[test]
    fn what_is_in_it_can_be_read_again() {
        let facts = serde_json::json!({ "api-key": "geheim", "a": ["http://ada:geheim@proxy"] });
        let parts = vec![(FLEET, Part::Text("version: 1\n".into())), (FACTS, Part::Document(facts))];
        let bytes = archive(parts, "of a test", &["vm-01: it did not answer".into()]).unwrap();
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(&bytes[..]));
        let names: Vec<String> =
            tar.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string()).collect();
        assert_eq!(names, ["vsgpu-bundle/README", "vsgpu-bundle/fleet.yaml", "vsgpu-bundle/facts.json"]);
        let mut text = String::new();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&bytes[..]), &mut text).unwrap();
        assert!(!text.contains("geheim") && text.contains("http://(taken out)@proxy"), "{text}");
    }
}
