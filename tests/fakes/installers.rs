//! Simulated nvidia-installer and CUDA installer, started by the lab's `.run` files. They take the real
//! options only, and refuse what the real ones refuse.

use super::Answer;
use super::state::{Machine, kernel_files};
use std::path::Path;

const LOG: &str = "/var/log/nvidia-installer.log";

/// Arguments: the `.run` file, then its options.
pub fn nvidia(folder: &Path, words: &[&str]) -> Answer {
    let (file, options) = words.split_first().unwrap_or((&"", &[]));
    let version = Path::new(file)
        .file_name()
        .and_then(|n| n.to_str())
        .unwrap_or_default()
        .trim_start_matches("NVIDIA-Linux-x86_64-")
        .trim_end_matches(".run")
        .trim_end_matches("-grid")
        .to_string();
    match options {
        ["--check"] => return Answer::ok(format!("Verifying archive integrity... OK (simulated)\n{file}\n")),
        ["--advanced-options"] => {
            return Answer::ok(
                "simulated nvidia-installer options\n  -a, --accept-license\n  -s, --silent\n  --dkms, --no-dkms\n  --no-drm\n  -k KERNEL, --kernel-name=KERNEL\n  -K, --kernel-modules-only\n  -M TYPE, --kernel-module-type=TYPE\n",
            );
        }
        _ => {}
    }
    let known = [
        "--silent",
        "-s",
        "--accept-license",
        "-a",
        "--dkms",
        "--no-drm",
        "--no-questions",
        "--ui=none",
        "--disable-nouveau",
        "--kernel-module-type=open",
        "--kernel-module-type=proprietary",
    ];
    let failed = |m: &Machine, why: &str| {
        m.write(LOG, &format!("nvidia-installer log file '{LOG}' (simulated)\nInstalling NVIDIA driver version {version}.\nERROR: {why}\nERROR: Installation has failed.  Please see the file '{LOG}' for details.\n"));
        Answer::err(
            1,
            format!(
                "\nERROR: {why}\n\nERROR: Installation has failed.  Please see the file '{LOG}' for details.\n"
            ),
        )
    };
    Machine::with(folder, |m| {
        if let Some(unknown) = options.iter().find(|o| !known.contains(o)) {
            return failed(m, &format!("Unrecognized option: \"{unknown}\""));
        }
        if !options.iter().any(|o| ["--silent", "-s", "--ui=none"].contains(o)) {
            return failed(m, "the simulated installer has no terminal: use --silent");
        }
        let guest = m.linux().clone();
        if guest.display_manager {
            return failed(m, "You appear to be running an X server; please exit X before installing.");
        }
        if guest.nouveau_loaded {
            return failed(
                m,
                "The Nouveau kernel driver is currently in use by your system.  This driver is incompatible with the NVIDIA driver, and must be disabled before proceeding.",
            );
        }
        if guest.loaded.is_some() {
            return failed(
                m,
                "An NVIDIA kernel module 'nvidia' appears to already be loaded in your kernel.",
            );
        }
        if !guest.packages.contains("gcc") {
            return failed(
                m,
                "Unable to find the development tool `cc` in your path; please make sure that you have the package 'gcc' installed.",
            );
        }
        if m.text(&format!("/lib/modules/{}/build/Makefile", guest.kernel)).is_none() {
            return failed(m, "Unable to find the kernel source tree for the currently running kernel.");
        }
        let grid = file.ends_with("-grid.run");
        // Without a GPU that it drives, the module does not load, and the installer gives up.
        let (gpus, _) = super::cuda::given(m);
        // A vGPU of a wrong release lets the module load, and then drives nothing.
        let kind = |gpu: &super::cuda::Given| gpu.host_driver.is_none() || grid;
        if gpus.is_empty() || gpus.iter().any(|gpu| !kind(gpu) || gpu.bar1_mib == 0) {
            return failed(
                m,
                "Unable to load the kernel module 'nvidia.ko'.  This happens most frequently when this kernel module was built against the wrong or improperly configured kernel sources, or if no NVIDIA GPU is supported by it.",
            );
        }
        let guest = m.linux();
        guest.driver = Some(version.clone());
        guest.loaded = Some(version.clone());
        guest.grid = grid;
        guest.gridd = if grid { "active".into() } else { String::new() };
        guest.dkms = options.contains(&"--dkms");
        guest.modules_of = [guest.kernel.clone()].into();
        if grid {
            m.write("/usr/bin/nvidia-gridd", "simulated\n");
        }
        m.write("/usr/bin/nvidia-persistenced", "simulated\n");
        super::state::link(&m.root("/usr/bin/nvidia-uninstall"));
        m.write("/etc/nvidia/gridd.conf.template", "# simulated gridd.conf.template\n#ServerAddress=\n#ServerPort=7070\n#BackupServerAddress=\n#BackupServerPort=7070\n#FeatureType=0\n#EnableUI=TRUE\n#LicenseInterval=1440\n#LingerInterval=0\n");
        m.write(LOG, &format!("nvidia-installer log file '{LOG}' (simulated)\nInstalling NVIDIA driver version {version}.\n-> Installation of the NVIDIA Accelerated Graphics Driver for Linux-x86_64 (version: {version}) is now complete.\n"));
        m.link("nvidia-smi");
        kernel_files(m);
        Answer::ok(
            "Verifying archive integrity... OK (simulated)\nUncompressing NVIDIA Accelerated Graphics Driver for Linux-x86_64\n",
        )
    })
}

/// What a `.run` leaves behind to be removed with.
pub fn uninstall(folder: &Path, words: &[&str]) -> Answer {
    Machine::with(folder, |m| {
        if words != ["--silent"] || m.linux().loaded.is_some() {
            return Answer::err(1, "ERROR: the simulated driver is loaded, or --silent is missing\n");
        }
        let guest = m.linux();
        (guest.driver, guest.grid, guest.gridd, guest.dkms) = (None, false, String::new(), false);
        guest.modules_of.clear();
        for file in ["gridd", "persistenced", "uninstall"] {
            let _ = std::fs::remove_file(m.root(&format!("/usr/bin/nvidia-{file}")));
        }
        let version = "(simulated)";
        m.write(LOG, &format!("-> Uninstallation of existing driver: NVIDIA Accelerated Graphics Driver {version} is complete.\n"));
        kernel_files(m);
        Answer::ok("")
    })
}

pub fn cuda(folder: &Path, words: &[&str]) -> Answer {
    let (file, options) = words.split_first().unwrap_or((&"", &[]));
    let version = Path::new(file)
        .file_name()
        .and_then(|n| n.to_str())
        .unwrap_or_default()
        .split('_')
        .nth(1)
        .unwrap_or_default()
        .to_string();
    if options.contains(&"--driver") {
        Machine::with(folder, |m| m.linux().driver = Some("535.104.05".into()));
    }
    if !options.contains(&"--silent") || !options.contains(&"--toolkit") {
        return Answer::err(1, "simulated CUDA installer: --silent and --toolkit are needed\n");
    }
    let m = Machine::read(folder);
    let release = version.split('.').take(2).collect::<Vec<_>>().join(".");
    let at = format!("/usr/local/cuda-{release}");
    m.write(
        &format!("{at}/version.json"),
        &format!("{{\"cuda\": {{\"name\": \"CUDA SDK (simulated)\", \"version\": \"{version}\"}}}}\n"),
    );
    for sample in ["deviceQuery", "vectorAdd"] {
        super::state::link(&m.root(&format!("{at}/extras/demo_suite/{sample}")));
    }
    let link = m.root("/usr/local/cuda");
    let _ = std::fs::remove_file(&link);
    std::os::unix::fs::symlink(format!("cuda-{release}"), link).unwrap();
    Answer::ok(
        "===========\n= Summary =\n===========\n\nDriver:   Not Selected\nToolkit:  Installed (simulated)\n",
    )
}
