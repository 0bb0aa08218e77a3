"""Every option that trtexec parses, by version. An option that is not listed ends the real one with ``Unknown option``.

Facts read in NVIDIA/TensorRT's samples/common/sampleOptions.cpp and samples/trtexec/trtexec.cpp: tags 8.5.2, v8.6.0,
v10.3.0 to v10.16, v11.0 and v11.1. The source of 11.2 to 11.4 is not public: they are taken for 11.1.
"""

from __future__ import annotations

OPTIONS_8_5 = """
allowGPUFallback avgRuns avgTiming batch best buildOnly calib consistency deploy device directIO dumpLayerInfo
dumpOutput dumpProfile dumpRefit duration explicitBatch explicitPrecision exportLayerInfo exportOutput
exportProfile exportTimes exposeDMA fp16 help heuristic idleTime inputIOFormats int8 iterations
layerOutputTypes layerPrecisions loadEngine loadInputs maxBatch maxShapes maxShapesCalib memPoolSize minShapes
minShapesCalib minTiming model noBuilderCache noDataTransfers noTF32 nvtxMode onnx optShapes optShapesCalib
output outputIOFormats percentile persistentCacheRatio plugins precisionConstraints preview profilingVerbosity
refit restricted safe saveEngine separateProfileRun serialized shapes sleepTime sparsity std streams
tacticSources threads timeDeserialize timeRefit timingCacheFile uff uffInput uffNHWC useCudaGraph useDLACore
useManagedMemory useSpinWait verbose warmUp workspace
"""
OPTIONS_8_6 = """
builderOptimizationLevel dumpRawBindingsToFile dynamicPlugins excludeLeanRuntime fp8
hardwareCompatibilityLevel ignoreParsedPluginLibs infStreams layerDeviceTypes leanDLLPath maxAuxStreams
setPluginsToSerialize skipInference staticPlugins tempdir tempfileControls useRuntime vc versionCompatible
"""  # and those of 8.5
OPTIONS_10_3 = """
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
        "accuracyAlgorithm accuracyThreshold atol continue dryRun helpBuildRoute loadRefOutputs refPair rtol "
        "saveAllEngines setBuildRoute tuneBuildRouteFile tuneBuildRoutes tuningCacheFile tuningResultFile tuningSearch "
        "tuningTimeOut",
        "",
    ),
)
WEAKLY_TYPED = ((8, 5), (8, 6))
STRONGLY_TYPED = ((10, 3), *(version for version, _, _ in CHANGES), (11, 4))
VERSIONS = (*WEAKLY_TYPED, *STRONGLY_TYPED)


def known_options(version: tuple[int, ...]) -> frozenset[str]:
    """Options of a version (major, minor, …), with their dashes."""
    if version[0] < 10:
        return frozenset(f"--{name}" for name in (OPTIONS_8_5 + (OPTIONS_8_6 if version[:2] >= (8, 6) else "")).split())
    names = set(OPTIONS_10_3.split())
    for since, came, went in CHANGES:
        if version[:2] >= since:
            names = (names | set(came.split())) - set(went.split())
    return frozenset(f"--{name}" for name in names)
