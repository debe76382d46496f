//! Packages of the simulated vCenter: esxcli through the API, files put onto datastores, and the one method that installs a
//! single package. The host's own simulated tools do it.

use super::changes::{Made, refused};
use super::machine::escaped;
use crate::fakes;
use crate::fakes::state::Machine;
use std::path::Path;
use vsgpu_core::readers::esxcli;
use vsgpu_core::readers::xml::{Element, parse};

fn text<'a>(of: &'a Element, name: &str) -> &'a str {
    of.child(name).map(|child| child.text.as_str()).unwrap_or_default()
}

/// `ExecuteSoap` of a host: what is inside its `returnval`.
pub fn execute(folder: &Path, call: &Element) -> String {
    let namespace: Vec<&str> = text(call, "moid").trim_start_matches("ha-cli-handler-").split('-').collect();
    let command = text(call, "method").rsplit('.').next().unwrap_or_default();
    let expected = format!("vim.EsxCLI.{}.{command}", namespace.join("."));
    if text(call, "method") != expected || text(call, "version") != "urn:vim25/5.0" {
        return fault("The object or item referred to could not be found.");
    }
    let mut words: Vec<String> = namespace.iter().map(|word| (*word).to_string()).collect();
    words.push(command.into());
    let looks = command == "list";
    for argument in call.all("argument") {
        // A document in a text.
        let Ok(value) = parse(text(argument, "val")) else { return fault("val is no document (simulated)") };
        if value.name != text(argument, "name") {
            return fault("the value has another name (simulated)");
        }
        match value.name.as_str() {
            "depot" => words.extend(["-d".into(), value.text.clone()]),
            "vibname" | "component" => words.extend(["-n".into(), value.text.clone()]),
            "rebootingimage" => words.push("--rebooting-image".into()),
            other => return fault(&format!("no such option {other} (simulated)")),
        }
    }
    if looks {
        words.insert(0, "--formatter=xml".into());
    }
    let answer = fakes::run(folder, "esxcli", &words);
    if answer.status != 0 {
        return fault(answer.stdout.trim());
    }
    if !looks {
        return "<response>&lt;obj&gt;&lt;Message&gt;done (simulated)&lt;/Message&gt;&lt;/obj&gt;</response>"
            .into();
    }
    let field = |(name, value): &(String, String)| {
        // Names have no spaces here.
        let name = name.replace(' ', "");
        format!("<{name}>{}</{name}>", escaped(value))
    };
    let record = |of: &esxcli::Record| {
        let fields: String = of.fields.iter().map(field).collect();
        format!("<DataObject xsi:type=\"VimEsxCLIlistRecord\">{fields}</DataObject>")
    };
    let all: String = esxcli::read(&answer.stdout).unwrap_or_default().iter().map(record).collect();
    let document = format!(
        "<obj xmlns=\"urn:vim25\" xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" versionId=\"5.0\" xsi:type=\"ArrayOfDataObject\">{all}</obj>"
    );
    format!("<response>{}</response>", escaped(&document))
}

fn fault(words: &str) -> String {
    let document = format!("<fault><errMsg>{}</errMsg></fault>", escaped(words));
    format!(
        "<fault><faultMsg>EsxCLI.CLIFault.summary</faultMsg><faultDetail>{}</faultDetail></fault>",
        escaped(&document)
    )
}

/// `InstallHostPatchV2_Task`: single packages only, from where the host finds them.
pub fn install(folder: &Path, call: &Element) -> Made {
    let Some(url) = call.child("vibUrls").map(|of| of.text.clone()) else {
        return Made::Refused("InvalidArgument", "bundles are not supported (simulated)".into());
    };
    let Some(path) = url.strip_prefix("file://") else {
        return Made::Task(Err(("PlatformConfigFault", format!("cannot download {url} (simulated)"))));
    };
    let path = path.replace("%20", " ").replace("%25", "%");
    let words = ["software", "vib", "install", "-v", &path].map(String::from);
    let answer = fakes::run(folder, "esxcli", &words);
    Made::Task(if answer.status == 0 {
        Ok(())
    } else {
        let (_, words) = refused(&answer);
        Err(("PlatformConfigFault", words))
    })
}

/// Puts a file onto a datastore of a host, whose folder must be there.
pub fn put(folder: &Path, datastore: &str, file: &str, bytes: &[u8]) -> bool {
    let at = folder.join(format!("root/vmfs/volumes/{datastore}/{file}"));
    let there = at.parent().is_some_and(Path::is_dir);
    there && std::fs::write(at, bytes).is_ok()
}

/// `MakeDirectory` of `[datastore] a/b`.
pub fn make_folder(folder: &Path, name: &str) -> Result<(), &'static str> {
    let Some((datastore, path)) = name.strip_prefix('[').and_then(|rest| rest.split_once("] ")) else {
        return Err("InvalidDatastorePath");
    };
    let volume = folder.join("root/vmfs/volumes").join(datastore);
    if !volume.is_dir() {
        return Err("InvalidDatastore");
    }
    let at = volume.join(path);
    if at.exists() {
        return Err("FileAlreadyExists");
    }
    Machine::with(folder, |machine| machine.log("MakeDirectory"));
    std::fs::create_dir_all(at).map_err(|_| "CannotCreateFile")
}
