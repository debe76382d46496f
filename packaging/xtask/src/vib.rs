//! The VIB of the host agent: descriptor, empty signature, one payload (facts: esxi B1, B2). Made without
//! VMware's tools.

use crate::files::{self, Entry};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use vsgpu_core::text::hex;
use xmlwriter::XmlWriter;

pub const NAME: &str = "vsgpu-host-agent";
pub const VENDOR: &str = "vsgpu";
/// At most fifteen characters.
const PAYLOAD: &str = "vsgpu";
/// One line, at most eighty characters.
pub const SUMMARY: &str = "vsgpu host agent: GPUs on vSphere from host to proof";
pub const DESCRIPTION: &str = "Looks at and sets up the GPUs of an ESXi host for vsgpu, over gRPC with mutual TLS. Nothing of NVIDIA is inside.";
/// The oldest release that it was made for.
const OLDEST: &str = "6.7.0";

/// A VIB with what is said about it.
pub struct Vib {
    pub bytes: Vec<u8>,
    /// What it says of itself.
    pub descriptor: Descriptor,
}

/// What a VIB says of itself.
pub struct Descriptor {
    /// `version-release`.
    pub version: String,
    date: String,
    files: Vec<String>,
    size: usize,
    /// Kind, how the payload is to be treated first, sum.
    sums: Vec<(&'static str, &'static str, String)>,
}

/// Where a VIB lies in a bundle.
pub struct Lies {
    /// Path inside the bundle.
    pub path: String,
    /// Bytes.
    pub size: usize,
    /// Of the whole VIB.
    pub sha256: String,
}

impl Vib {
    /// As esxcli names it.
    pub fn id(&self) -> String {
        format!("{VENDOR}_bootbank_{NAME}_{}", self.descriptor.version)
    }
}

/// Makes it; `date` is an xsd:dateTime.
///
/// # Errors
/// A sentence.
pub fn build(entries: &[Entry], version: &str, date: &str) -> Result<Vib, String> {
    let tar = files::tar(entries, "", 0)?;
    let payload = files::gzip(&tar)?;
    let sums = vec![
        ("sha-256", "", hex(&Sha256::digest(&payload))),
        // ESXi 8 wants this one, earlier releases the one behind it.
        ("sha-256", "gunzip", hex(&Sha256::digest(&tar))),
        ("sha-1", "gunzip", hex(&Sha1::digest(&tar))),
    ];
    let files = entries.iter().map(|e| e.path.clone()).collect();
    let descriptor =
        Descriptor { version: format!("{version}-1"), date: date.into(), files, size: payload.len(), sums };
    let bytes = files::ar(
        &[("descriptor.xml", descriptor.xml(None).as_bytes()), ("sig.pkcs7", &[]), (PAYLOAD, &payload)],
        0,
    )?;
    Ok(Vib { bytes, descriptor })
}

/// `<name>text</name>`.
pub fn leaf(xml: &mut XmlWriter, name: &str, text: &str) {
    xml.start_element(name);
    xml.write_text(text);
    xml.end_element();
}

/// One such element after the other.
pub fn leaves(xml: &mut XmlWriter, all: &[(&str, &str)]) {
    all.iter().for_each(|(name, text)| leaf(xml, name, text));
}

/// Pretty-printed texts would gain spaces: everything on one line.
pub fn writer() -> XmlWriter {
    XmlWriter::new(xmlwriter::Options { indent: xmlwriter::Indent::None, ..xmlwriter::Options::default() })
}

impl Descriptor {
    /// The document; inside a bundle it also says where the VIB lies.
    pub fn xml(&self, lies: Option<&Lies>) -> String {
        let mut xml = writer();
        xml.start_element("vib");
        xml.write_attribute("version", "5.0");
        leaves(
            &mut xml,
            &[
                ("type", "bootbank"),
                ("name", NAME),
                ("version", &self.version),
                ("vendor", VENDOR),
                ("summary", SUMMARY),
                ("description", DESCRIPTION),
                ("release-date", &self.date),
            ],
        );
        xml.start_element("urls");
        xml.end_element();
        xml.start_element("relationships");
        for name in ["depends", "conflicts", "replaces", "provides", "compatibleWith"] {
            xml.start_element(name);
            if name == "depends" {
                xml.start_element("constraint");
                xml.write_attribute("name", "esx-version");
                xml.write_attribute("relation", ">=");
                xml.write_attribute("version", OLDEST);
                xml.end_element();
            }
            xml.end_element();
        }
        xml.end_element();
        xml.start_element("software-tags");
        xml.end_element();
        xml.start_element("system-requires");
        leaf(&mut xml, "maintenance-mode", "false");
        xml.end_element();
        xml.start_element("file-list");
        self.files.iter().for_each(|file| leaf(&mut xml, "file", file));
        xml.end_element();
        leaves(
            &mut xml,
            &[
                ("acceptance-level", "community"),
                ("live-install-allowed", "true"),
                ("live-remove-allowed", "true"),
                ("cimom-restart", "false"),
                ("stateless-ready", "true"),
                ("overlay", "false"),
            ],
        );
        xml.start_element("payloads");
        xml.start_element("payload");
        for (name, value) in [("name", PAYLOAD), ("type", "tgz"), ("size", &self.size.to_string())] {
            xml.write_attribute(name, value);
        }
        for (kind, process, sum) in &self.sums {
            xml.start_element("checksum");
            xml.write_attribute("checksum-type", kind);
            if !process.is_empty() {
                xml.write_attribute("verify-process", process);
            }
            xml.write_text(sum);
            xml.end_element();
        }
        xml.end_element();
        xml.end_element();
        if let Some(lies) = lies {
            leaf(&mut xml, "relative-path", &lies.path);
            leaf(&mut xml, "packed-size", &lies.size.to_string());
            xml.start_element("checksum");
            leaf(&mut xml, "checksum-type", "sha-256");
            leaf(&mut xml, "checksum", &lies.sha256);
            xml.end_element();
        }
        xml.end_document()
    }
}
