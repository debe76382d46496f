//! esxcli's own XML, as its `--formatter=xml` writes it: the readers of the requirements read it.

pub(super) type Fields = Vec<(String, String)>;

pub(super) fn fields(all: &[(&str, &str)]) -> Fields {
    all.iter().map(|(name, value)| ((*name).to_string(), (*value).to_string())).collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn structure(fields: &Fields) -> String {
    let field = |(name, value): &(String, String)| {
        format!("<field name=\"{name}\"><string>{}</string></field>", escaped(value))
    };
    format!("<structure typeName=\"Api\">{}</structure>", fields.iter().map(field).collect::<String>())
}

/// esxcli's own XML.
fn output(inside: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><output xmlns=\"http://www.vmware.com/Products/ESX/5.0/esxcli\"><root>{inside}</root></output>\n"
    )
}

pub(super) fn record(all: &[(&str, &str)]) -> String {
    output(&structure(&fields(all)))
}

pub(super) fn records(all: impl Iterator<Item = Fields>) -> String {
    let all: String = all.map(|fields| structure(&fields)).collect();
    output(&format!("<list type=\"structure\">{all}</list>"))
}

pub(super) fn word(text: &str) -> String {
    output(&format!("<string>{}</string>", escaped(text)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vsgpu_core::readers::esxcli;

    #[test]
    fn answers_read_back_whatever_stands_in_them() {
        let text = records([fields(&[("Name", "a <b> & c"), ("Value", "")])].into_iter());
        let read = esxcli::read(&text).unwrap();
        assert_eq!((read.len(), read[0].get("Name")), (1, Some("a <b> & c")));
        assert_eq!(esxcli::read(&word("Enabled")).unwrap()[0].title, "Enabled");
        assert_eq!(esxcli::read(&records(std::iter::empty())).unwrap(), []);
    }
}
