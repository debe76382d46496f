//! The gateway's file: `name = value` in a line, as the agents' other files. It names where the password is and never
//! has it.
#![expect(
    clippy::disallowed_methods,
    reason = "the gateway's own files, read before there is a machine to look at"
)]

use crate::facts::host_image::MayChange;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use vsgpu_core::text::{piece, sentence};
use vsgpu_vsphere::Trust;

/// Bytes of the file, of a password, of a CA file.
const MOST_BYTES: u64 = 256 << 10;
/// Hosts and clusters that one gateway names.
const MOST_NAMES: usize = 1_000;

/// What the file says.
#[derive(Debug)]
pub(super) struct Config {
    /// Name of vCenter, or of a host that stands alone.
    pub address: String,
    pub is_vcenter: bool,
    pub user: String,
    pub password_file: PathBuf,
    /// At one of its ends, where nobody sees it.
    pub password_has_space: bool,
    /// None before the first contact.
    pub trust: Option<Trust>,
    pub hosts: Vec<String>,
    pub clusters: Vec<String>,
    pub serving: Serving,
    /// What may be done with images of hosts.
    pub images: MayChange,
    /// Also where SDDC Manager looks after them.
    pub images_in_vcf: bool,
    /// Where vCenter fetches bundles from: an address of this machine.
    pub depot: Option<SocketAddr>,
}

/// For `gateway serve`.
#[derive(Debug)]
pub(super) struct Serving {
    /// Where controllers connect to, for all hosts.
    pub listen: SocketAddr,
    /// Folder with each host's folder of certificates.
    pub pki: PathBuf,
    /// Folder for the agents' memory.
    pub state: PathBuf,
    /// Where the counters are served, and to whom.
    pub metrics: Option<SocketAddr>,
    pub metrics_auth: Option<String>,
}

/// Reads it, and looks whether the password is there before anybody is asked.
pub(super) fn read(file: &Path) -> Result<Config, String> {
    let shown = file.display().to_string();
    let mode = about(file)?.permissions().mode();
    if mode & 0o022 != 0 {
        return Err(format!(
            "{shown}: others may write it, and so choose whom to trust: `chmod 600 {shown}`"
        ));
    }
    let mut config = parse(&text_of(file)?, &shown)?;
    let password = password(&config.password_file).map_err(|why| format!("{shown}: password-file: {why}"))?;
    config.password_has_space = password.trim() != password;
    Ok(config)
}

fn about(file: &Path) -> Result<std::fs::Metadata, String> {
    std::fs::metadata(file).map_err(|e| format!("{}: {}", sentence(&file.display().to_string()), plainly(&e)))
}

/// Without the system's number.
fn plainly(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "it does not exist".into(),
        std::io::ErrorKind::PermissionDenied => "this user may not read it".into(),
        _ => error.to_string(),
    }
}

const KEYS: &str = "vcenter, esxi, user, password-file, trust, ca, host, cluster, listen, pki, state, metrics, metrics-auth, images, images-in-vcf, depot";

fn parse(text: &str, file: &str) -> Result<Config, String> {
    let (mut vcenter, mut esxi, mut user, mut password, mut pin, mut ca) =
        (None, None, None, None, None, None);
    let (mut hosts, mut clusters) = (vec![], vec![]);
    let (mut listen, mut pki, mut state, mut metrics, mut metrics_auth) = (None, None, None, None, None);
    let (mut images, mut in_vcf, mut depot) = (None, None, None);
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (n, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let at = |why: &str| format!("{file}:{}: {why}", n + 1);
        let (name, value) = line
            .split_once('=')
            .map(|(name, value)| (name.trim(), value.trim()))
            .filter(|(_, value)| !value.is_empty())
            .ok_or_else(|| at("`name = value` is expected"))?;
        // Names in vCenter hold anything.
        if value.contains(" #") && !["host", "cluster"].contains(&name) {
            return Err(at("` #` begins no comment here: put the comment on a line of its own"));
        }
        let once = |slot: &mut Option<String>| match slot.replace(value.to_string()) {
            Some(_) => Err(at(&format!("`{name}` is there twice"))),
            None => Ok(()),
        };
        match name {
            "vcenter" => once(&mut vcenter)?,
            "esxi" => once(&mut esxi)?,
            "user" => once(&mut user)?,
            "password-file" => once(&mut password)?,
            "trust" => once(&mut pin)?,
            "ca" => once(&mut ca)?,
            "listen" => once(&mut listen)?,
            "pki" => once(&mut pki)?,
            "state" => once(&mut state)?,
            "metrics" => once(&mut metrics)?,
            "metrics-auth" => once(&mut metrics_auth)?,
            "images" => once(&mut images)?,
            "images-in-vcf" => once(&mut in_vcf)?,
            "depot" => once(&mut depot)?,
            "host" if !hosts.iter().any(|host| host == value) => hosts.push(value.to_string()),
            "cluster" if !clusters.iter().any(|cluster| cluster == value) => clusters.push(value.to_string()),
            "host" | "cluster" => return Err(at(&format!("`{}` is there twice", piece(value, 80)))),
            "password" => {
                return Err(at("no password stands in this file: `password-file` names a file of mode 0600"));
            }
            // What stands there may be anything, a password's half as well.
            other if other.chars().all(|c| c.is_ascii_alphabetic() || c == '-') => {
                let near = vsgpu_core::suggest::nearest(other, KEYS.split(", "));
                let near = near.map(|near| format!(" Did you mean `{near}`?")).unwrap_or_default();
                return Err(at(&format!("unknown name `{}`.{near}\nKnown: {KEYS}", piece(other, 30))));
            }
            _ => return Err(at(&format!("this is none of {KEYS}"))),
        }
        if hosts.len() + clusters.len() > MOST_NAMES {
            return Err(at(&format!("more than {MOST_NAMES} hosts and clusters")));
        }
    }
    let (address, is_vcenter) = match (vcenter, esxi) {
        (Some(name), None) => (name, true),
        (None, Some(name)) => (name, false),
        (Some(_), Some(_)) => return Err(format!("{file}: `vcenter` and `esxi` are both there: keep one")),
        (None, None) => {
            return Err(format!("{file}: `vcenter` (or `esxi`, for a host that stands alone) is missing"));
        }
    };
    let needed =
        |what: Option<String>, name: &str| what.ok_or_else(|| format!("{file}: `{name}` is missing"));
    let user = needed(user, "user")?;
    // vCenter 9 refuses a name without its domain, and before it means a domain that nobody named.
    if is_vcenter && !user.contains(['@', '\\']) {
        return Err(format!(
            "{file}: user: the name with its domain is expected, such as svc-vsgpu@vsphere.local"
        ));
    }
    if is_vcenter && hosts.is_empty() && clusters.is_empty() {
        return Err(format!("{file}: at least one `host` or `cluster` is needed"));
    }
    let trust = match (pin, ca) {
        (Some(_), Some(_)) => return Err(format!("{file}: `trust` and `ca` are both there: keep one")),
        (Some(pin), None) => Some(Trust::fingerprint(&pin).map_err(|why| format!("{file}: trust: {why}"))?),
        (None, Some(ca)) => Some(Trust::Authority(text_of(Path::new(&ca))?.into_bytes())),
        (None, None) => None,
    };
    let password_file = needed(password, "password-file")?.into();
    let address_of = |text: Option<String>, name: &str| {
        let read = |text: String| {
            text.parse::<SocketAddr>()
                .map_err(|_| format!("{file}: {name}: IP:PORT is expected, such as 127.0.0.1:9455; no name"))
        };
        text.map(read).transpose()
    };
    let folder = |text: Option<String>, default: &str| text.map_or_else(|| default.into(), PathBuf::from);
    let serving = Serving {
        listen: address_of(listen, "listen")?.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 7443))),
        pki: folder(pki, "/etc/vsgpu-host-agent/pki"),
        state: folder(state, "/var/lib/vsgpu-host-agent/gateway"),
        metrics: address_of(metrics, "metrics")?,
        metrics_auth,
    };
    let images = match images.as_deref() {
        None | Some("never") => MayChange::Never,
        Some("commit") => MayChange::Commit,
        Some("remediate") => MayChange::Remediate,
        Some(other) => {
            return Err(format!(
                "{file}: images: `{}` is none of never, commit, remediate",
                piece(other, 30)
            ));
        }
    };
    let images_in_vcf = match in_vcf.as_deref() {
        None | Some("refuse") => false,
        Some("allow") => true,
        Some(other) => {
            return Err(format!("{file}: images-in-vcf: `{}` is none of refuse, allow", piece(other, 30)));
        }
    };
    if images != MayChange::Never && !is_vcenter {
        return Err(format!("{file}: images: a host that stands alone without vCenter has no image"));
    }
    let depot = address_of(depot, "depot")?;
    if depot.is_some_and(|depot| depot.ip().is_unspecified()) {
        return Err(format!(
            "{file}: depot: an address at which vCenter reaches this machine is expected, such as 10.0.0.5:7480"
        ));
    }
    Ok(Config {
        address,
        is_vcenter,
        user,
        password_file,
        password_has_space: false,
        trust,
        hosts,
        clusters,
        serving,
        images,
        images_in_vcf,
        depot,
    })
}

/// When a file was written last; none where it is gone.
pub(super) fn changed(file: &Path) -> Option<std::time::SystemTime> {
    std::fs::metadata(file).and_then(|about| about.modified()).ok()
}

/// The password: read when it is sent, and kept nowhere.
pub(super) fn password(file: &Path) -> Result<String, String> {
    let shown = file.display();
    let mode = about(file)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(format!("{shown}: others may read it (mode {mode:04o}): `chmod 600 {shown}`"));
    }
    let text = text_of(file)?;
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    match password {
        "" => Err(format!("{shown}: it is empty")),
        long if long.contains('\n') => {
            Err(format!("{shown}: it has several lines; the password alone is expected"))
        }
        password => Ok(password.to_string()),
    }
}

fn text_of(file: &Path) -> Result<String, String> {
    let shown = sentence(&file.display().to_string());
    let about = about(file)?;
    if !about.is_file() {
        return Err(format!("{shown}: a plain file is expected"));
    }
    if about.len() > MOST_BYTES {
        return Err(format!("{shown}: it is larger than {} KiB", MOST_BYTES >> 10));
    }
    std::fs::read_to_string(file).map_err(|e| format!("{shown}: {}", plainly(&e)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# the lab\nvcenter = vc.example.com\nuser = svc@vsphere.local\npassword-file = /etc/p\nhost = esx-01\ncluster = GPU-A\n";

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let config = parse(GOOD, "g.conf").unwrap();
        assert_eq!((config.hosts.len(), config.clusters.len(), config.trust), (1, 1, None));
        for (text, words) in [
            (GOOD.replace("host = esx-01", "host ="), "g.conf:5: `name = value`"),
            (GOOD.to_string() + "host = esx-01\n", "g.conf:7: `esx-01` is there twice"),
            (GOOD.to_string() + "insecure = yes\n", "g.conf:7: unknown name `insecure`."),
            (GOOD.to_string() + "password = hunter2\n", "g.conf:7: no password stands in this file"),
            (GOOD.to_string() + "esxi = a\n", "`vcenter` and `esxi` are both there"),
            (
                GOOD.replace("svc@vsphere.local", "svc@vsphere.local # me"),
                "g.conf:3: ` #` begins no comment here",
            ),
            (GOOD.to_string() + "hunter2 =x\n", "g.conf:7: this is none of vcenter"),
            (GOOD.to_string() + "trust = sha256:12\n", "trust: `sha256:` and 64"),
            (GOOD.replace("@vsphere.local", ""), "with its domain"),
            (GOOD.to_string() + "images = yes\n", "images: `yes` is none of never, commit, remediate"),
            (GOOD.to_string() + "images-in-vcf = yes\n", "images-in-vcf: `yes` is none of refuse, allow"),
            (GOOD.to_string() + "depot = 0.0.0.0:7480\n", "depot: an address at which vCenter reaches"),
            (GOOD.to_string() + "depot = gw:7480\n", "depot: IP:PORT is expected"),
            (GOOD.replace("password-file = /etc/p\n", ""), "`password-file` is missing"),
            (GOOD.replace("host = esx-01\ncluster = GPU-A\n", ""), "at least one `host`"),
        ] {
            let why = parse(&text, "g.conf").unwrap_err();
            assert!(why.contains(words) && !why.contains("hunter2"), "{why}");
        }
    }

    #[test]
    fn a_password_that_others_may_read_is_not_sent() {
        let file = std::env::temp_dir().join(format!("vsgpu-password-{}", std::process::id()));
        let with = |text: &str, mode: u32| {
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            password(&file)
        };
        assert_eq!(with("a b\r\n", 0o600).as_deref(), Ok("a b"));
        assert!(with("secret\n", 0o640).unwrap_err().contains("others may read it"));
        for (text, words) in [("", "empty"), ("\n", "empty"), ("secret\nsecret\n", "several lines")] {
            let why = with(text, 0o600).unwrap_err();
            assert!(why.contains(words) && !why.contains("secret"), "{why}");
        }
        std::fs::remove_file(file).unwrap();
    }
}
