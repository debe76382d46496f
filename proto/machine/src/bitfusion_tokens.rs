//! The archive with a Bitfusion client's tokens, as vCenter gives it: which servers it is for, and by which
//! certificate authority they are known. The token itself is looked at by nobody.

use sha2::{Digest as _, Sha256};
use std::io::{Read, Seek, SeekFrom};
use vsgpu_core::artifact::PackageContent;
use vsgpu_core::readers::bitfusion;
use vsgpu_core::text::hex;

/// All that belongs into it, and nothing else does.
const FILES: [&str; 3] = ["ca.crt", "client.yaml", "servers.conf"];
/// Largest file of it.
const MAX_FILE: u64 = 256 << 10;
/// Members of it, its folder's own among them: one that has more is refused as a whole.
const MAX_MEMBERS: usize = 16;

/// What it holds: `ca.crt` with its SHA-256, each `server`, and when its token was `made`, seconds since 1970, where
/// the archive says so. `None` for a tar file that is none.
///
/// # Errors
/// In words, where it is one that cannot be used.
pub(crate) fn read(file: &mut (impl Read + Seek + ?Sized)) -> Result<Option<Vec<PackageContent>>, String> {
    file.seek(SeekFrom::Start(0)).map_err(|e| e.to_string())?;
    let mut archive = tar::Archive::new(file);
    let (mut names, mut ca, mut servers, mut made) = (vec![], None, None, None);
    let Ok(entries) = archive.entries() else { return Ok(None) };
    let mut more = false;
    for (at, entry) in entries.enumerate() {
        let Ok(mut entry) = entry else { return Ok(None) };
        if at >= MAX_MEMBERS {
            more = true;
            break;
        }
        let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_string();
        // The folder itself.
        if name.is_empty() && entry.header().entry_type().is_dir() {
            continue;
        }
        let plain = entry.header().entry_type().is_file() && entry.size() <= MAX_FILE;
        if plain && (name == "ca.crt" || name == "servers.conf") {
            let mut bytes = vec![];
            entry.read_to_end(&mut bytes).map_err(|e| format!("the tar file is broken or cut off: {e}"))?;
            match name.as_str() {
                "ca.crt" => ca = Some(hex(&Sha256::digest(&bytes))),
                _ => servers = Some(bitfusion::servers(&String::from_utf8_lossy(&bytes))),
            }
        }
        if name == "client.yaml" {
            made = entry.header().mtime().ok().filter(|seconds| *seconds > 0);
        }
        names.push((name, plain));
    }
    let has = |wanted: &str| names.iter().any(|(name, _)| name == wanted);
    // These two names are of nothing else.
    if !has("client.yaml") && !has("auth.yaml") {
        return Ok(None);
    }
    if has("auth.yaml") {
        return Err(
            "these are tokens of an older Bitfusion (auth.yaml), which vsgpu cannot place: make tokens with client.yaml (vCenter, Bitfusion, Tokens), or set this client up by hand".into()
        );
    }
    if let Some(missing) = FILES.into_iter().find(|name| !has(name)) {
        return Err(format!("{missing} is missing in this archive of Bitfusion's tokens"));
    }
    if let Some((name, _)) = names.iter().find(|(name, plain)| !plain || !FILES.contains(&name.as_str())) {
        let what = "ca.crt, client.yaml and servers.conf, and nothing else, belong into an archive of Bitfusion's tokens";
        return Err(format!("`{name}`: {what}"));
    }
    if more {
        return Err(format!("more than {MAX_MEMBERS} members in this archive of Bitfusion's tokens"));
    }
    if names.len() != FILES.len() {
        return Err("a file is twice in this archive of Bitfusion's tokens".into());
    }
    let one = |name: &str, version: String| PackageContent { name: name.into(), version, acceptance: None };
    let servers = servers.unwrap_or_else(|| bitfusion::servers(""))?.addresses;
    let ca = one("ca.crt", ca.unwrap_or_default());
    let servers = servers.into_iter().map(|server| one("server", server));
    let made = made.map(|seconds| one("made", seconds.to_string()));
    Ok(Some(std::iter::once(ca).chain(servers).chain(made).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(files: &[(&str, &str)]) -> std::io::Cursor<Vec<u8>> {
        let mut tar = tar::Builder::new(vec![]);
        for (name, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o600);
            header.set_mtime(1_764_547_200);
            let _ = tar.append_data(&mut header, name, text.as_bytes());
        }
        std::io::Cursor::new(tar.into_inner().unwrap_or_default())
    }

    const WHOLE: [(&str, &str); 3] = [
        ("ca.crt", "certificate"),
        ("client.yaml", "secret"),
        ("servers.conf", "servers:\n- addresses:\n  - 10.0.0.5:56001\n  - 10.0.0.6:56001\n"),
    ];

    #[test]
    fn servers_and_authority_and_nothing_of_the_token() {
        let holds = read(&mut archive(&WHOLE)).unwrap_or_else(|why| panic!("{why}")).unwrap_or_default();
        let shown = format!("{holds:?}");
        assert!(shown.contains("10.0.0.5:56001") && shown.contains("10.0.0.6:56001"), "{shown}");
        assert_eq!(holds[3].version, "1764547200", "{shown}");
        assert_eq!(holds[0].version, hex(&Sha256::digest("certificate")));
        assert!(!shown.contains("secret"));
        assert_eq!(read(&mut archive(&[("manifest.json", "{}")])), Ok(None), "another tar file");
        assert_eq!(read(&mut std::io::Cursor::new(vec![7; 2048])), Ok(None), "no tar file");
    }

    #[test]
    fn what_is_not_whole_is_said() {
        let with = |name: &'static str, text: &'static str| {
            WHOLE.into_iter().filter(|(known, _)| *known != name).chain([(name, text)]).collect::<Vec<_>>()
        };
        for (files, says) in [
            (WHOLE[..2].to_vec(), "servers.conf is missing"),
            (WHOLE[1..].to_vec(), "ca.crt is missing"),
            (with("auth.yaml", ""), "an older Bitfusion"),
            (with("notes.txt", ""), "`notes.txt`"),
            (with("etc/passwd", ""), "`etc/passwd`"),
            (with("servers.conf", "servers:\n"), "no server"),
            ([WHOLE.to_vec(), vec![WHOLE[0]]].concat(), "twice"),
            ([WHOLE.to_vec(), vec![("notes.txt", ""); 20]].concat(), "`notes.txt`"),
        ] {
            let why = read(&mut archive(&files)).expect_err(says);
            assert!(why.contains(says), "{why}");
        }
    }

    /// What lies behind the last member that is looked at is unpacked all the same: so there is none.
    #[test]
    fn nothing_hides_behind_the_members_that_are_looked_at() {
        let mut tar = tar::Builder::new(vec![]);
        let mut add = |kind: tar::EntryType, name: &str, text: &str| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(text.len() as u64);
            let _ = tar.append_data(&mut header, name, text.as_bytes());
        };
        (0..MAX_MEMBERS - 3).for_each(|_| add(tar::EntryType::Directory, "./", ""));
        WHOLE.iter().for_each(|(name, text)| add(tar::EntryType::Regular, name, text));
        let whole = tar.into_inner().unwrap_or_default();
        assert!(read(&mut std::io::Cursor::new(&whole)).is_ok_and(|holds| holds.is_some()));
        let mut tar = tar::Builder::new(whole[..whole.len() - 1024].to_vec());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        let _ = tar.append_link(&mut header, "client.yaml", "/etc/shadow");
        let mut bytes = whole[..whole.len() - 1024].to_vec();
        bytes.extend(&tar.into_inner().unwrap_or_default()[whole.len() - 1024..]);
        let why = read(&mut std::io::Cursor::new(bytes)).expect_err("a link behind the sixteenth");
        assert!(why.contains("more than"), "{why}");
    }
}
