//! The offline bundle around the VIB: what vSphere Lifecycle Manager and Image Builder import (facts: esxi
//! B3). Its bulletin names a component, as images are made of components. Whether Lifecycle Manager takes an
//! unsigned one is not known (facts: esxi B3).

use crate::vib::{self, Lies, NAME, SUMMARY, VENDOR, Vib, leaf, leaves, writer};
use sha2::{Digest as _, Sha256};
use std::io::Write as _;
use vsgpu_core::text::hex;
use xmlwriter::XmlWriter;

/// Releases that a depot names one by one.
const PLATFORMS: [&str; 4] = ["6.7.0", "7.*", "8.*", "9.*"];

/// A zip file of these members, the same bytes for the same members.
fn zip_of(members: &[(&str, &[u8])]) -> Result<Vec<u8>, String> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(vec![]));
    let options = zip::write::SimpleFileOptions::default()
        .last_modified_time(zip::DateTime::default())
        .unix_permissions(0o644);
    for (name, bytes) in members {
        zip.start_file(*name, options).map_err(|e| e.to_string())?;
        zip.write_all(bytes).map_err(|e| e.to_string())?;
    }
    Ok(zip.finish().map_err(|e| e.to_string())?.into_inner())
}

/// Makes it.
///
/// # Errors
/// A sentence.
pub fn build(vib: &Vib, date: &str) -> Result<Vec<u8>, String> {
    let version = &vib.descriptor.version;
    let lies = Lies {
        path: format!("vib20/{NAME}/{NAME}-{version}.vib"),
        size: vib.bytes.len(),
        sha256: hex(&Sha256::digest(&vib.bytes)),
    };
    let metadata_name = format!("{VENDOR}-{NAME}-{version}-metadata.zip");
    let vendor_index = vendor_index(&metadata_name);
    let metadata = zip_of(&[
        ("vmware.xml", response(vib, date, &lies).as_bytes()),
        ("vendor-index.xml", vendor_index.as_bytes()),
        (&format!("bulletins/{}.xml", bulletin_id(vib)), bulletin(vib, date).as_bytes()),
        (&format!("vibs/{NAME}-{version}.xml"), vib.descriptor.xml(Some(&lies)).as_bytes()),
    ])?;
    zip_of(&[
        ("index.xml", index().as_bytes()),
        ("vendor-index.xml", vendor_index.as_bytes()),
        (&metadata_name, &metadata),
        (&lies.path, &vib.bytes),
    ])
}

fn bulletin_id(vib: &Vib) -> String {
    format!("{NAME}-{}", vib.descriptor.version)
}

fn content(xml: &mut XmlWriter) {
    xml.start_element("content");
    leaf(xml, "name", "VMware ESX");
    leaf(xml, "type", "http://www.vmware.com/depotmanagement/esx");
    xml.end_element();
}

fn index() -> String {
    let mut xml = writer();
    xml.start_element("vendorList");
    xml.start_element("vendor");
    leaf(&mut xml, "name", VENDOR);
    leaf(&mut xml, "code", VENDOR);
    leaf(&mut xml, "indexfile", "vendor-index.xml");
    leaf(&mut xml, "patchUrl", "");
    leaf(&mut xml, "relativePath", "");
    content(&mut xml);
    xml.end_document()
}

fn vendor_index(metadata: &str) -> String {
    let mut xml = writer();
    xml.start_element("metaList");
    for version in PLATFORMS {
        xml.start_element("metadata");
        leaves(
            &mut xml,
            &[
                ("productId", "embeddedEsx"),
                ("version", version),
                ("locale", ""),
                ("url", metadata),
                ("channelName", "default"),
            ],
        );
        xml.end_element();
    }
    xml.end_document()
}

/// `lies`: with the older list, which describes the VIB itself.
fn bulletin_into(xml: &mut XmlWriter, vib: &Vib, date: &str, lies: Option<&Lies>) {
    xml.start_element("bulletin");
    leaves(
        xml,
        &[
            ("id", bulletin_id(vib).as_str()),
            ("vendor", VENDOR),
            ("summary", SUMMARY),
            ("severity", "general"),
            ("category", "general"),
            ("urgency", "Important"),
            ("releaseType", "extension"),
            ("description", vib::DESCRIPTION),
            ("kbUrl", ""),
            ("contact", ""),
            ("releaseDate", date),
        ],
    );
    xml.start_element("componentNameSpec");
    xml.write_attribute("name", NAME);
    xml.write_attribute("uiString", "vsgpu host agent");
    xml.end_element();
    xml.start_element("componentVersionSpec");
    xml.write_attribute("version", &vib.descriptor.version);
    xml.write_attribute("uiString", &vib.descriptor.version);
    xml.end_element();
    xml.start_element("platforms");
    for version in PLATFORMS {
        xml.start_element("softwarePlatform");
        xml.write_attribute("productLineID", "embeddedEsx");
        xml.write_attribute("locale", "");
        xml.write_attribute("version", version);
        xml.end_element();
    }
    xml.end_element();
    xml.start_element("vibList");
    match lies {
        None => leaf(xml, "vibID", &vib.id()),
        Some(lies) => older(xml, vib, lies),
    }
    xml.end_element();
    xml.end_element();
}

fn bulletin(vib: &Vib, date: &str) -> String {
    let mut xml = writer();
    bulletin_into(&mut xml, vib, date, None);
    xml.end_document()
}

fn response(vib: &Vib, date: &str, lies: &Lies) -> String {
    let mut xml = writer();
    xml.start_element("metadataResponse");
    leaf(&mut xml, "version", "3.0");
    leaf(&mut xml, "timestamp", date);
    bulletin_into(&mut xml, vib, date, Some(lies));
    xml.end_document()
}

fn older(xml: &mut XmlWriter, vib: &Vib, lies: &Lies) {
    xml.start_element("vib");
    leaves(
        xml,
        &[
            ("vibVersion", "1.4.5"),
            ("vibID", vib.id().as_str()),
            ("name", NAME),
            ("version", &vib.descriptor.version),
            ("vendor", VENDOR),
            ("vibType", "bootbank"),
            ("summary", SUMMARY),
        ],
    );
    xml.start_element("vibFile");
    leaf(xml, "sourceUrl", "");
    leaf(xml, "relativePath", &lies.path);
    leaf(xml, "packedSize", &lies.size.to_string());
    xml.start_element("checksum");
    leaf(xml, "checksumType", "sha-256");
    leaf(xml, "checksum", &lies.sha256);
    xml.end_element();
    xml.end_element();
    xml.end_element();
}
