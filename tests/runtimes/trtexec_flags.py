"""Every option that trtexec parses, by version. An option that is not listed ends the real one with ``Unknown option``.

Facts read in NVIDIA/TensorRT's samples/common/sampleOptions.cpp, branches release/10.3 to 10.16, 11.0 and 11.1.
"""

from __future__ import annotations

FLAGS_10_3 = """
allocationStrategy allowGPUFallback allowWeightStreaming avgRuns avgTiming best bf16 buildDLAStandalone
builderOptimizationLevel calib calibProfile consistency device directIO dumpLayerInfo dumpOptimizationProfile
dumpOutput dumpProfile dumpRawBindingsToFile dumpRefit duration dynamicPlugins errorOnTimingCacheMiss
excludeLeanRuntime exportLayerInfo exportOutput exportProfile exportTimes exposeDMA fp16 fp8
getPlanVersionOnly hardwareCompatibilityLevel help idleTime ignoreParsedPluginLibs infStreams inputIOFormats
int4 int8 iterations layerDeviceTypes layerOutputTypes layerPrecisions leanDLLPath loadEngine loadInputs
markDebug maxAuxStreams maxShapes maxShapesCalib memPoolSize minShapes minShapesCalib noBuilderCache
noCompilationCache noDataTransfers noTF32 onnx optShapes optShapesCalib outputIOFormats percentile
persistentCacheRatio pi pluginInstanceNorm plugins precisionConstraints preview profile profilingVerbosity
refit restricted runtimePlatform safe saveDebugTensors saveEngine separateProfileRun serialized
setPluginsToSerialize shapes skipInference sleepTime sparsity staticPlugins std streams stripAllWeights
stripWeights stronglyTyped tacticSources tempdir tempfileControls threads timeDeserialize timeRefit
timingCacheFile useCudaGraph useDLACore useManagedMemory useProfile useRuntime useSpinWait vc verbose
versionCompatible warmUp weightStreamingBudget weightless
"""
CHANGES: tuple[tuple[tuple[int, int], str, str], ...] = (  # version, what came, what went
    ((10, 4), "maxTactics", "consistency"),
    ((10, 6), "monitorMemory", ""),
    ((10, 7), "asyncFileReader", ""),
    ((10, 8), "l2LimitForTiling tilingOptimizationLevel", ""),
    ((10, 11), "uint8AsymmetricQuantizationDLA", ""),
    ((10, 12), "distributiveIndependence markUnfusedTensorsAsDebugTensors saveAllDebugTensors", ""),
    ((10, 13), "consistency dumpKernelText remoteAutoTuningConfig safetyPlugins", ""),
    ((10, 14), "decomposableAttentions refitFromOnnx", ""),
    ((10, 15), "cpuOnly enablePluginOverride", ""),
    ((10, 16), "adjustForDLA reportCapabilityDLA", ""),
    (
        (11, 0),
        "includeDataTransfers noCudaGraph noSpinWait",
        "best bf16 calib calibProfile fp16 fp8 int4 layerOutputTypes layerPrecisions maxShapesCalib minShapesCalib "
        "optShapesCalib precisionConstraints restricted weightless",
    ),
    (
        (11, 1),
        "accuracyAlgorithm accuracyThreshold atol continue dryRun helpBuildRoute loadRefOutputs rtol saveAllEngines "
        "setBuildRoute tuneBuildRouteFile tuneBuildRoutes tuningCacheFile tuningResultFile tuningSearch tuningTimeOut",
        "",
    ),
)
VERSIONS = ((10, 3), *(version for version, _, _ in CHANGES))


def known_flags(version: tuple[int, ...]) -> frozenset[str]:
    """Options of a version, with their dashes."""
    flags = set(FLAGS_10_3.split())
    for since, came, went in CHANGES:
        if version[:2] >= since:
            flags = (flags | set(came.split())) - set(went.split())
    return frozenset(f"--{flag}" for flag in flags)
