//! Licensed products under all the names they have had: what the operator writes, what older and newer
//! nvidia-smi print (NVIDIA renamed them more than once; nvidia-smi of R595 still prints an old name).

/// A licensed product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// RTX Virtual Workstation (vWS), formerly Quadro vDWS: Q types, or a whole GPU.
    Workstation,
    /// vGPU for Compute, NVIDIA AI Enterprise, formerly Virtual Compute Server (vCS): C types, or a whole
    /// GPU.
    Compute,
    /// Virtual PC: B types.
    Pc,
    /// Virtual Applications: A types.
    Applications,
}

/// Names, lower case, blanks and signs taken out.
const NAMES: [(&str, Product); 24] = [
    ("vdws", Product::Workstation),
    ("vws", Product::Workstation),
    ("qvdws", Product::Workstation),
    ("quadrovdws", Product::Workstation),
    ("quadrovirtualdws", Product::Workstation),
    ("quadrovirtualdatacenterworkstation", Product::Workstation),
    ("rtxvws", Product::Workstation),
    ("rtxvirtualworkstation", Product::Workstation),
    ("virtualworkstation", Product::Workstation),
    ("gridvirtualws", Product::Workstation),
    ("workstation", Product::Workstation),
    ("vcs", Product::Compute),
    ("virtualcomputeserver", Product::Compute),
    ("aienterprise", Product::Compute),
    ("nvaie", Product::Compute),
    ("vgpuforcompute", Product::Compute),
    ("compute", Product::Compute),
    ("vpc", Product::Pc),
    ("virtualpc", Product::Pc),
    ("gridvirtualpc", Product::Pc),
    ("vapps", Product::Applications),
    ("virtualapplications", Product::Applications),
    ("gridvirtualapps", Product::Applications),
    ("gridvirtualapplications", Product::Applications),
];

impl Product {
    /// The product that a name means.
    pub fn named(text: &str) -> Option<Self> {
        let plain: String =
            text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
        let plain = plain.strip_prefix("nvidia").unwrap_or(&plain);
        NAMES.iter().find(|(name, _)| *name == plain).map(|(_, product)| *product)
    }

    /// Its name today.
    pub fn shown(self) -> &'static str {
        match self {
            Self::Workstation => "RTX vWS (formerly vDWS)",
            Self::Compute => "vGPU for Compute / AI Enterprise (formerly vCS)",
            Self::Pc => "vPC",
            Self::Applications => "vApps",
        }
    }

    /// FeatureType of `gridd.conf` for a whole GPU (facts: nvidia 3); a vGPU's type decides by itself.
    pub fn feature_type(self) -> Option<u8> {
        match self {
            Self::Workstation => Some(2),
            Self::Compute => Some(4),
            Self::Pc | Self::Applications => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_and_new_names_mean_the_same() {
        for (names, product) in [
            (
                vec![
                    "vDWS",
                    "vWS",
                    "Quadro Virtual Data Center Workstation",
                    "NVIDIA RTX Virtual Workstation",
                    "Quadro-Virtual-DWS",
                ],
                Product::Workstation,
            ),
            (
                vec![
                    "vCS",
                    "NVIDIA Virtual Compute Server",
                    "NVIDIA AI Enterprise",
                    "NVIDIA vGPU for Compute",
                ],
                Product::Compute,
            ),
            (vec!["GRID Virtual PC", "vPC", "NVIDIA Virtual PC"], Product::Pc),
            (
                vec!["GRID Virtual Applications", "vApps", "NVIDIA Virtual Applications"],
                Product::Applications,
            ),
        ] {
            for name in names {
                assert_eq!(Product::named(name), Some(product), "{name}");
            }
        }
        assert_eq!((Product::named(""), Product::named("Tesla")), (None, None));
    }
}
