"""The coordinator's folder and processes: certificates, admitted keys, bundles, the gate, studies."""
